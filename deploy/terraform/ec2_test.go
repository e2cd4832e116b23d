package terraform_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
)

// fakeEC2 answers the calls that the AWS provider makes for an aws_instance, and shows what it was asked for. What a
// request leaves out gets EC2's own defaults (gp2, not encrypted, old metadata service), so that a setting which is lost
// on the way shows as a change in the next plan. Methods are safe for concurrent use.
type fakeEC2 struct {
	t *testing.T

	mu        sync.Mutex // guards instances
	instances map[string]*instance
}

// instance is as it was asked for; templates read its exported fields and methods.
type instance struct {
	ID, PrivateIP, State string
	Request              url.Values
	Tags, VolumeTags     map[string]string
}

// PublicIP ends like the private address.
func (i instance) PublicIP() string {
	return "198.51.100." + i.PrivateIP[strings.LastIndexByte(i.PrivateIP, '.')+1:]
}

// VolumeID is the root volume's.
func (i instance) VolumeID() string { return "vol-" + strings.TrimPrefix(i.ID, "i-") }

// Or returns a parameter of the request, or a default.
func (i instance) Or(parameter, otherwise string) string {
	if value := i.Request.Get(parameter); value != "" {
		return value
	}
	return otherwise
}

// UserData returns what cloud-init would run.
func (i instance) UserData(t *testing.T) string {
	t.Helper()
	script, err := base64.StdEncoding.DecodeString(i.Request.Get("UserData"))
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// newEC2 starts an EC2 that lives as long as the test, and returns its address.
func newEC2(t *testing.T) (ec2 *fakeEC2, endpoint string) {
	t.Helper()
	ec2 = &fakeEC2{t: t, instances: map[string]*instance{}}
	server := httptest.NewServer(ec2)
	t.Cleanup(server.Close)
	return ec2, server.URL
}

// running returns copies of all instances that are not terminated.
func (e *fakeEC2) running() []instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []instance
	for _, i := range e.instances {
		if i.State == "running" {
			all = append(all, *i)
		}
	}
	return all
}

func (e *fakeEC2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	if err := e.answer(w, r.PostForm); err != nil {
		e.t.Logf("EC2: %v", err)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprint(w, `<Response><Errors><Error><Code>UnsupportedOperation</Code><Message>not here</Message></Error></Errors></Response>`)
	}
}

// answer carries out one action and writes its answer.
func (e *fakeEC2) answer(w http.ResponseWriter, request url.Values) error {
	action := request.Get("Action")
	var about []*instance
	switch action {
	case "RunInstances":
		about = []*instance{e.start(request)}
	case "DescribeVolumes":
		ids := slices.Concat(list(request, "VolumeId.%d"), list(request, "Filter.1.Value.%d"), list(request, "Filter.2.Value.%d"))
		about = e.find(func(i *instance) bool { return slices.Contains(ids, i.VolumeID()) || slices.Contains(ids, i.ID) })
	case "CreateTags":
		e.tag(request)
	default:
		ids := slices.Concat(list(request, "InstanceId.%d"), list(request, "InstanceId"))
		about = e.find(func(i *instance) bool { return len(ids) == 0 || slices.Contains(ids, i.ID) })
	}
	if action == "TerminateInstances" {
		for _, i := range about {
			i.State = "terminated"
		}
	}
	page := answers().Lookup(action)
	if page == nil {
		return fmt.Errorf("no answer to %s", action)
	}
	return page.Execute(w, map[string]any{"Request": request, "Instances": about})
}

func (e *fakeEC2) find(match func(*instance) bool) []*instance {
	var found []*instance
	for _, id := range slices.Sorted(maps.Keys(e.instances)) {
		if match(e.instances[id]) {
			found = append(found, e.instances[id])
		}
	}
	return found
}

func (e *fakeEC2) start(request url.Values) *instance {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	i := &instance{
		ID:         "i-0" + hex.EncodeToString(id),
		PrivateIP:  fmt.Sprintf("10.0.1.%d", 10+len(e.instances)),
		State:      "running",
		Request:    request,
		Tags:       map[string]string{},
		VolumeTags: map[string]string{},
	}
	for n := 1; request.Has(fmt.Sprintf("TagSpecification.%d.ResourceType", n)); n++ {
		tags := i.Tags
		if request.Get(fmt.Sprintf("TagSpecification.%d.ResourceType", n)) == "volume" {
			tags = i.VolumeTags
		}
		readTags(tags, request, fmt.Sprintf("TagSpecification.%d.", n))
	}
	e.instances[i.ID] = i
	return i
}

func (e *fakeEC2) tag(request url.Values) {
	ids := list(request, "ResourceId.%d")
	for _, i := range e.instances {
		if slices.Contains(ids, i.ID) {
			readTags(i.Tags, request, "")
		}
		if slices.Contains(ids, i.VolumeID()) {
			readTags(i.VolumeTags, request, "")
		}
	}
}

func readTags(tags map[string]string, request url.Values, prefix string) {
	for n := 1; request.Has(fmt.Sprintf("%sTag.%d.Key", prefix, n)); n++ {
		tags[request.Get(fmt.Sprintf("%sTag.%d.Key", prefix, n))] = request.Get(fmt.Sprintf("%sTag.%d.Value", prefix, n))
	}
}

// list returns the parameters pattern makes from 1, 2, …; a pattern without a number is one parameter.
func list(request url.Values, pattern string) []string {
	if !strings.Contains(pattern, "%d") {
		return request[pattern]
	}
	var values []string
	for n := 1; request.Has(fmt.Sprintf(pattern, n)); n++ {
		values = append(values, request.Get(fmt.Sprintf(pattern, n)))
	}
	return values
}

// answers has a template for each action that is answered.
func answers() *template.Template {
	all := template.New("")
	for action, body := range map[string]string{
		"RunInstances":                         `<reservationId>r-0</reservationId><ownerId>000000000000</ownerId><instancesSet>{{range .Instances}}{{template "instance" .}}{{end}}</instancesSet>`,
		"DescribeInstances":                    `<reservationSet>{{range .Instances}}<item><reservationId>r-0</reservationId><ownerId>000000000000</ownerId><instancesSet>{{template "instance" .}}</instancesSet></item>{{end}}</reservationSet>`,
		"TerminateInstances":                   `<instancesSet>{{range .Instances}}<item><instanceId>{{.ID}}</instanceId><currentState><code>48</code><name>terminated</name></currentState></item>{{end}}</instancesSet>`,
		"DescribeInstanceAttribute":            `{{$asked := .Request.Get "Attribute"}}{{range .Instances}}<instanceId>{{.ID}}</instanceId>{{if eq $asked "userData"}}<userData><value>{{.Request.Get "UserData"}}</value></userData>{{else}}<{{$asked}}><value>{{if eq $asked "instanceInitiatedShutdownBehavior"}}stop{{else}}false{{end}}</value></{{$asked}}>{{end}}{{end}}`,
		"DescribeInstanceTypes":                `<instanceTypeSet><item><instanceType>{{.Request.Get "InstanceType.1"}}</instanceType><burstablePerformanceSupported>true</burstablePerformanceSupported><hypervisor>nitro</hypervisor></item></instanceTypeSet>`,
		"DescribeInstanceCreditSpecifications": `<instanceCreditSpecificationSet><item><instanceId>{{.Request.Get "InstanceId.1"}}</instanceId><cpuCredits>unlimited</cpuCredits></item></instanceCreditSpecificationSet>`,
		"DescribeImages":                       `<imagesSet><item><imageId>{{.Request.Get "ImageId.1"}}</imageId><imageState>available</imageState><rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/sda1</rootDeviceName></item></imagesSet>`,
		"DescribeTags":                         `<tagSet/>`,
		"DescribeVpcs":                         `<vpcSet/>`,
		"CreateTags":                           `<return>true</return>`,
		"ModifyInstanceAttribute":              `<return>true</return>`,
		"DescribeVolumes":                      `<volumeSet>{{range .Instances}}{{template "volume" .}}{{end}}</volumeSet>`,
	} {
		template.Must(all.New(action).Parse(`<?xml version="1.0" encoding="UTF-8"?><` + action + `Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>0</requestId>` + body + `</` + action + `Response>`))
	}
	template.Must(all.New("tags").Parse(`<tagSet>{{range $key, $value := .}}<item><key>{{html $key}}</key><value>{{html $value}}</value></item>{{end}}</tagSet>`))
	template.Must(all.New("volume").Parse(`<item><volumeId>{{.VolumeID}}</volumeId><status>in-use</status><iops>3000</iops><throughput>125</throughput>
<size>{{.Or "BlockDeviceMapping.1.Ebs.VolumeSize" "8"}}</size>
<volumeType>{{.Or "BlockDeviceMapping.1.Ebs.VolumeType" "gp2"}}</volumeType>
<encrypted>{{.Or "BlockDeviceMapping.1.Ebs.Encrypted" "false"}}</encrypted>
<attachmentSet><item><volumeId>{{.VolumeID}}</volumeId><instanceId>{{.ID}}</instanceId><device>/dev/sda1</device><status>attached</status><deleteOnTermination>true</deleteOnTermination></item></attachmentSet>
{{template "tags" .VolumeTags}}</item>`))
	template.Must(all.New("instance").Parse(`<item><instanceId>{{.ID}}</instanceId>
<imageId>{{.Request.Get "ImageId"}}</imageId><instanceType>{{.Request.Get "InstanceType"}}</instanceType><keyName>{{.Request.Get "KeyName"}}</keyName>
<instanceState><code>{{if eq .State "running"}}16{{else}}48{{end}}</code><name>{{.State}}</name></instanceState>
<placement><availabilityZone>ap-northeast-2a</availabilityZone><tenancy>default</tenancy></placement><monitoring><state>disabled</state></monitoring>
<subnetId>{{.Request.Get "SubnetId"}}</subnetId><vpcId>vpc-0</vpcId><privateIpAddress>{{.PrivateIP}}</privateIpAddress><ipAddress>{{.PublicIP}}</ipAddress>
<sourceDestCheck>true</sourceDestCheck><groupSet><item><groupId>{{.Request.Get "SecurityGroupId.1"}}</groupId></item></groupSet>
<iamInstanceProfile><arn>arn:aws:iam::000000000000:instance-profile/{{.Request.Get "IamInstanceProfile.Name"}}</arn></iamInstanceProfile>
<rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/sda1</rootDeviceName><ebsOptimized>false</ebsOptimized><hypervisor>nitro</hypervisor>
<blockDeviceMapping><item><deviceName>/dev/sda1</deviceName><ebs><volumeId>{{.VolumeID}}</volumeId><status>attached</status><deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>
<metadataOptions><state>applied</state><httpEndpoint>enabled</httpEndpoint><httpProtocolIpv6>disabled</httpProtocolIpv6><instanceMetadataTags>disabled</instanceMetadataTags>
<httpTokens>{{.Or "MetadataOptions.HttpTokens" "optional"}}</httpTokens>
<httpPutResponseHopLimit>{{.Or "MetadataOptions.HttpPutResponseHopLimit" "1"}}</httpPutResponseHopLimit></metadataOptions>
{{template "tags" .Tags}}</item>`))
	return all
}
