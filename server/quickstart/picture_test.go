package quickstart

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/edge/browsertest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// pictureFile is where `make picture` writes what it saw.
var pictureFile = flag.String("picture", "", "write the README's picture to this file")

// What the README shows happens: a worker publishes by the command line, a page follows,
// the edge is killed and comes back, and the page has each event once. Each picture is
// a browser's; only how long it stands is made up.
func TestPicture_ShowsWhatHappens(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.FileServer(http.Dir("testdata")))
	t.Cleanup(site.Close)
	p := &place{t: t, dir: t.TempDir(), bus: bustest.New(t)}
	addr := bustest.Address(t)
	edge := bustest.Start(t, bustest.Settings{"ROUTER_ADDR": p.bus.GRPC, "HTTP_ADDR": addr, "ADMIN_ADDR": "off", "CORS_ORIGINS": site.URL}, "edge")
	f := newFilm(t, site.URL+"/picture.html?events="+url.QueryEscape("http://"+addr+"/api/v1/scan/42/events"))

	publish := func(flags string) {
		command := "eventbus publish scan/42 " + flags
		f.types(command)
		p.shell(command)
		f.do(fmt.Sprintf("enter(); print('out', %q)", strings.TrimSpace(p.out)))
	}
	// has shows the page when it has all of them.
	has := func(events int, reading time.Duration) {
		f.waits(fmt.Sprintf("seen.length >= %d", events))
		f.shows(reading)
	}
	note := func(text string) {
		f.do(fmt.Sprintf("print('note', %q)", "# "+text))
		f.shows(time.Second)
	}
	f.waits("source.readyState === 1")
	f.shows(time.Second)
	publish("-s queued --status waiting -p 0")
	has(1, time.Second)
	publish("-s vision --status completed -p 40")
	has(2, time.Second)
	edge.Kill()
	f.waits("lost")
	note("kill -9: the edge is gone, the worker goes on")
	publish("-s answer -c 'Rinse the can, ' -p 60")
	f.shows(time.Second)
	publish("-s answer -c 'then recycle it.' -p 80")
	f.shows(time.Second)
	edge.Start(t)
	note("the edge is back")
	has(4, 2*time.Second)
	f.do("upToDate()")
	publish("-s done --status completed -p 100 --final")
	has(5, 4*time.Second)

	if seen := eval[[]int](f, "seen"); !slices.Equal(seen, []int{1, 2, 3, 4, 5}) {
		t.Errorf("the page saw %v", seen)
	}
	f.write(*pictureFile)
}

// The page of the quick start shows what the commands below it publish.
func TestQuickstart_ThePageShowsTheJob(t *testing.T) {
	t.Parallel()
	p := &place{t: t, dir: t.TempDir()}
	site := httptest.NewServer(http.FileServer(http.Dir(p.dir)))
	t.Cleanup(site.Close)
	p.bus = bustest.New(t, bustest.Settings{"CORS_ORIGINS": site.URL})
	blocks := sections(t, "docs/quickstart.md")["Browser"]
	if len(blocks) < 2 || blocks[0].file == "" || blocks[1].language != "sh" {
		t.Fatalf("not a page and commands: %+v", blocks)
	}
	p.write(blocks[0].file, p.here(blocks[0].text))
	f := newFilm(t, site.URL+"/"+blocks[0].file)
	p.shell(p.here(blocks[1].text))
	f.waits("bar.value === 100 && stage.textContent === 'over' && text.textContent === 'Rinse it.'")
}

// film is a page and the pictures of it.
type film struct {
	t      *testing.T
	ctx    context.Context
	frames []image.Image
	delays []int // 1/100 s
}

func newFilm(t *testing.T, page string) *film {
	t.Helper()
	ctx, cancel := context.WithTimeout(browsertest.New(t), 3*bustest.Patience)
	t.Cleanup(cancel)
	const width, height, scale = 960, 336, 1.5
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, height, chromedp.EmulateScale(scale)), chromedp.Navigate(page)); err != nil {
		t.Fatal(err)
	}
	return &film{t: t, ctx: ctx}
}

func eval[T any](f *film, script string) T {
	f.t.Helper()
	return browsertest.Value[T](f.t, f.ctx, script)
}

func (f *film) do(script string) {
	f.t.Helper()
	eval[chromedp.Void](f, script)
}

func (f *film) waits(condition string) {
	f.t.Helper()
	bustest.Eventually(f.t, condition, func() bool { return eval[bool](f, condition) })
}

// types shows a command as somebody types it.
func (f *film) types(command string) {
	f.t.Helper()
	const step = 8 // characters a picture
	for n := step; n < len(command)+step; n += step {
		f.do(fmt.Sprintf("type(%q)", command[:min(n, len(command))]))
		f.shows(60 * time.Millisecond)
	}
}

// shows takes a picture, where somebody wants them.
func (f *film) shows(reading time.Duration) {
	f.t.Helper()
	if *pictureFile == "" {
		return
	}
	shot, err := chromedp.Run(f.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		f.t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		f.t.Fatal(err)
	}
	f.frames = append(f.frames, img)
	f.delays = append(f.delays, int(reading/(10*time.Millisecond)))
}

// write makes a GIF of them: of each picture only what is new.
func (f *film) write(name string) {
	f.t.Helper()
	if name == "" {
		return
	}
	colours := palette(f.frames)
	out := &gif.GIF{Delay: f.delays}
	last := make(map[int]uint8) // by place
	for i, img := range f.frames {
		b := img.Bounds()
		whole := image.NewPaletted(b, colours)
		var changed image.Rectangle
		for y := b.Min.Y; y < b.Max.Y; y++ {
			for x := b.Min.X; x < b.Max.X; x++ {
				at := whole.PixOffset(x, y)
				c := uint8(colours[1:].Index(img.At(x, y)) + 1)
				if was, ok := last[at]; i > 0 && ok && was == c {
					continue // index 0: what was there stays
				}
				whole.Pix[at], last[at] = c, c
				changed = changed.Union(image.Rect(x, y, x+1, y+1))
			}
		}
		if changed.Empty() {
			changed = image.Rect(0, 0, 1, 1)
		}
		out.Image = append(out.Image, whole.SubImage(changed).(*image.Paletted))
		out.Disposal = append(out.Disposal, gif.DisposalNone)
	}
	out.Config = image.Config{ColorModel: colours, Width: f.frames[0].Bounds().Dx(), Height: f.frames[0].Bounds().Dy()}
	file, err := os.Create(name)
	if err == nil {
		err = gif.EncodeAll(file, out)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		f.t.Fatal(err)
	}
}

// palette is the colours that are there most, after one that is none.
func palette(frames []image.Image) color.Palette {
	count := map[color.RGBA]int{}
	for _, img := range frames {
		b := img.Bounds()
		for y := b.Min.Y; y < b.Max.Y; y++ {
			for x := b.Min.X; x < b.Max.X; x++ {
				count[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
			}
		}
	}
	all := make([]color.RGBA, 0, len(count))
	for c := range count {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return count[b] - count[a] })
	out := color.Palette{color.RGBA{}}
	const most = 64 // shades of text are many, and nobody sees the difference
	for _, c := range all[:min(len(all), most-1)] {
		out = append(out, c)
	}
	return out
}
