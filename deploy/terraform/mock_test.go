package terraform_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTerraform_ValidatesAndPassesItsOwnTests(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t, "deploy/terraform: fmt, validate, terraform test with mocks, '2 to add, 0 to change, 0 to destroy'")
	if tf == nil {
		return
	}
	tf.run(t, ".", "fmt", "-check", "-recursive", "-diff")

	for dir, runs := range map[string]int{"modules/event-nodes": 18, "modules/node-security-group": 11, "network": 2, "cluster": 11} {
		t.Run(dir, func(t *testing.T) {
			tf.run(t, dir, "init", "-no-color", "-input=false")
			if !strings.HasPrefix(dir, "modules/") { // those are validated with the roots that use them
				tf.run(t, dir, "validate", "-no-color")
			}
			args := []string{"test", "-no-color"}
			if dir == "cluster" {
				args = append(args, "-verbose") // prints plans
			}
			out := tf.run(t, dir, args...)
			contains(t, out, fmt.Sprintf("Success! %d passed, 0 failed.", runs))
			if dir == "cluster" {
				checkPlans(t, out)
			}
		})
	}
}

// checkPlans holds the plans of the cluster's own tests against what they may touch.
func checkPlans(t *testing.T, out string) {
	t.Helper()
	const nothing = "No changes. Your infrastructure matches the configuration."
	const outputsOnly = "You can apply this plan to save these new output values to the Terraform"
	want := map[string]string{
		"the_plan_adds_two_nodes":                         "Plan: 2 to add, 0 to change, 0 to destroy.",
		"nothing_is_left_to_do":                           nothing,
		"a_new_image_touches_no_running_node":             outputsOnly,
		"the_inventory_names_groups_addresses_and_labels": nothing,
	}
	plans := map[string]string{}
	run := ""
	for _, line := range regexp.MustCompile(`(?m)^ +run "(\w+)"|^(?:Plan: |No changes\.|You can apply this plan).*$`).FindAllStringSubmatch(out, -1) {
		if line[1] != "" {
			run = line[1]
		} else {
			plans[run] = line[0]
		}
	}
	if diff := cmp.Diff(want, plans); diff != "" {
		t.Errorf("plans (-want +got):\n%s\n%s", diff, out)
	}
}
