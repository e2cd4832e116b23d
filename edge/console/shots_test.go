package console

import (
	"bytes"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/edge/browsertest"
)

// The pictures of docs/console.md are made by `make screenshots`; every other run makes
// them, too, and throws them away.
var shots = flag.String("console.shots", "", "write the pictures of docs/console.md into this directory")

// maxShot is how large a picture in the repository may be.
const maxShot = 150 << 10

// picture is what stands in the documents.
type picture struct {
	name          string
	hash          string
	width, height int64
	scheme        string
	// ready makes the page worth a picture.
	ready func(tab)
}

func pictures() []picture {
	return []picture{
		{"overview-light", "#/", 1280, 800, "light", rated},
		{"overview-dark", "#/", 1280, 800, "dark", rated},
		{"overview-390", "#/", 390, 844, "light", rated},
		{"job-light", "#/jobs/scan/" + exampleJob, 1280, 1320, "light", jobSeen},
		{"job-dark", "#/jobs/scan/" + exampleJob, 1280, 900, "dark", jobSeen},
		{"job-390", "#/jobs/scan/" + exampleJob, 390, 844, "dark", jobSeen},
		{"why-light", "#/jobs/scan/" + deadJob, 1280, 800, "light", whySeen},
		{"subscriber-dark", "#/subscriber/scan/" + exampleJob, 1280, 800, "dark", over},
		{"cluster-light", "#/cluster", 1280, 1000, "light", seen("members")},
		{"publish-390", "#/publish/scan/" + exampleJob, 390, 844, "light", publishSeen},
	}
}

// rated waits until the page has seen enough to draw rates.
func rated(p tab) {
	points := 3
	if *shots != "" {
		points = 20 // for the eye
	}
	p.until(hook("rate-published")+" !== null", true)
	p.until(fmt.Sprintf("document.querySelector('.charts polyline').points.numberOfItems >= %d", points), true)
}

// settle waits until what changed is drawn.
func (p tab) settle() {
	p.t.Helper()
	_, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](`new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatal(err)
	}
}

func seen(name string) func(tab) {
	return func(p tab) {
		p.t.Helper()
		p.until(hook(name)+" !== null && "+hook("health")+".textContent !== ''", true)
	}
}

func over(p tab) { p.until(hook("sub-state")+"?.textContent", "finished") }

func jobSeen(p tab) {
	p.until(hook("connection")+"?.textContent", "finished")
	p.until("document.querySelectorAll('[data-testid=event]').length > 5", true)
	p.until("document.querySelectorAll('[data-job]').length > 3", true)
}

func whySeen(p tab) {
	p.until(hook("connection")+"?.textContent", "live")
	p.click(`[data-testid=why]`)
	p.until(hook("answer")+".dataset.verdict", "dead")
	p.do(chromedp.Evaluate[chromedp.Void]("scrollTo(0, 0)"))
}

func publishSeen(p tab) {
	p.until(hook("publish-stage")+" !== null", true)
	p.set("publish-stage", "gap")
	p.click(`[data-testid=publish-send]`)
	p.until(hook("rule-stage")+".textContent !== ''", true)
	p.do(chromedp.Evaluate[chromedp.Void]("scrollTo(0, 0)"))
}

func TestShots_EveryPageFitsItsWindowAndIsWorthAPicture(t *testing.T) {
	b := newLivelyBus(t)
	p := openTab(t, browsertest.New(t), "http://"+b.HTTP+"/#/jobs/scan") // which goes on while other pages are shown
	p.until(hook("watch")+"?.textContent", "live")
	for _, pic := range pictures() {
		t.Run(pic.name, func(t *testing.T) {
			p := tab{t, p.ctx}
			p.look(pic.width, pic.height, pic.scheme)
			p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.hash = %q", pic.hash)))
			p.until("location.hash", pic.hash)
			pic.ready(p)
			p.until("document.documentElement.scrollWidth <= innerWidth", true)
			p.do(chromedp.Evaluate[chromedp.Void]("document.activeElement.blur()"))
			p.settle()
			shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
			if err != nil {
				t.Fatal(err)
			}
			small := shrink(t, shot)
			if len(small) > maxShot {
				t.Errorf("%d bytes, more than %d", len(small), maxShot)
			}
			if *shots != "" {
				if err := os.WriteFile(filepath.Join(*shots, "console-"+pic.name+".png"), small, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// shrink gives a picture the 256 colours that it has most of, each pixel the nearest:
// a page has few, and text is none the worse for it.
func shrink(t *testing.T, shot []byte) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	often := map[color.RGBA]int{}
	bounds := img.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			often[at(x, y)]++
		}
	}
	all := make([]color.RGBA, 0, len(often))
	for c := range often {
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool {
		if often[all[i]] != often[all[j]] {
			return often[all[i]] > often[all[j]]
		}
		return fmt.Sprint(all[i]) < fmt.Sprint(all[j])
	})
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	out := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			c := at(x, y)
			i, known := nearest[c]
			if !known {
				i = uint8(palette.Index(c))
				nearest[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	var text bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&text, out); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}
