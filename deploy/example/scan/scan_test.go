package scan

import (
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// paint makes a picture of one colour.
func paint(t *testing.T, c color.Color, width, height int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.Set(x, y, c)
		}
	}
	return encode(t, img)
}

func encode(t *testing.T, img image.Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestLook_NamesColoursByTheirHue(t *testing.T) {
	for name, c := range map[string]color.NRGBA{
		"black": {10, 20, 30, 255}, "grey": {100, 100, 104, 255}, "white": {240, 240, 240, 255}, "red": {200, 20, 30, 255},
		"orange": {220, 120, 20, 255}, "yellow": {230, 220, 30, 255}, "green": {30, 160, 60, 255}, "cyan": {30, 200, 200, 255},
		"blue": {30, 60, 200, 255}, "purple": {150, 30, 200, 255},
	} {
		v, err := Look(paint(t, c, 7, 5))
		if err != nil {
			t.Fatal(err)
		}
		if v.Dominant != name || v.Width != 7 || v.Height != 5 || v.Format != "png" || len(v.Colours) != 1 || v.Colours[0].Permille != 1000 {
			t.Errorf("%v is %+v, want all of it %s", c, v, name)
		}
		// Each name has a rule, or a job would fail on it.
		if _, err := RuleFor(v); err != nil {
			t.Error(err)
		}
	}
}

func TestLook_CountsWhatIsThere(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 640, 480))
	for y := range 480 {
		for x := range 640 {
			c := color.NRGBA{200, 0, 0, 255}
			if x < 160 { // a quarter
				c = color.NRGBA{0, 0, 0, 255}
			}
			img.SetNRGBA(x, y, c)
		}
	}
	v, err := Look(encode(t, img))
	if err != nil {
		t.Fatal(err)
	}
	want := []Colour{{"red", 750, "#c80000"}, {"black", 250, "#000000"}}
	if !reflect.DeepEqual(v.Colours, want) || v.Histogram[0] != grid*grid/4 || v.Brightness != 59*3/4 {
		t.Errorf("%+v, want the colours %+v", v, want)
	}
}

func TestLook_ADamagedOrHugePictureIsRefused(t *testing.T) {
	whole := paint(t, color.NRGBA{1, 2, 3, 255}, 300, 200)
	huge := bytes.Clone(whole)
	copy(huge[16:], []byte{0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff}) // its header's width and height
	for name, picture := range map[string][]byte{"cut off": whole[:len(whole)/2], "no picture": []byte("GIF89a"), "nothing": nil, "huge": huge} {
		if v, err := Look(picture); err == nil {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestTokens_AreTheText(t *testing.T) {
	v := Vision{Width: 3, Height: 4, Dominant: "green"}
	r, err := RuleFor(v)
	if err != nil {
		t.Fatal(err)
	}
	a := AnswerFor(v, r)
	if tokens := a.Tokens(); strings.Join(tokens, "") != a.Text || len(tokens) < 10 {
		t.Errorf("%q, want the pieces of %q", tokens, a.Text)
	}
}

// A job may begin in one language and end in the other.
func TestScan_PythonSaysTheSame(t *testing.T) {
	dir := t.TempDir()
	var want []map[string]any
	for i := range 12 {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		img := image.NewNRGBA(image.Rect(0, 0, 1+random.IntN(300), 1+random.IntN(200)))
		for n := range img.Pix {
			img.Pix[n] = uint8(random.IntN(256))
			if n%4 == 3 && i%2 == 0 {
				img.Pix[n] = 255
			}
		}
		picture := encode(t, img)
		id := strconv.Itoa(i)
		if err := os.WriteFile(filepath.Join(dir, id), picture, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := Look(picture)
		if err != nil {
			t.Fatal(err)
		}
		r, err := RuleFor(v)
		if err != nil {
			t.Fatal(err)
		}
		a := AnswerFor(v, r)
		want = append(want, map[string]any{"vision": v, "rule": r, "answer": a, "tokens": a.Tokens(), "reward": RewardFor(id)})
	}
	const program = `
import json, pathlib, sys, scan
out = []
for i in range(12):
    v = scan.look((pathlib.Path(sys.argv[1]) / str(i)).read_bytes())
    r = scan.rule_for(v)
    a = scan.answer_for(v, r)
    out.append({"vision": v, "rule": r, "answer": a, "tokens": scan.tokens(a), "reward": scan.reward_for(str(i))})
print(json.dumps(out))
`
	got := python(t, program, dir)
	var a, b any
	text, err := json.Marshal(want)
	if err != nil || json.Unmarshal(text, &b) != nil || json.Unmarshal(got, &a) != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("Python:\n%s\nGo:\n%s", got, text)
	}
}

// The decoders may differ a little in a JPEG's pixels, not in what it is.
func TestScan_PythonReadsJPEGAndRefusesWhatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	if err := jpeg.Encode(&out, image.NewRGBA(image.Rect(0, 0, 90, 60)), nil); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"whole": out.Bytes(), "cut": out.Bytes()[:out.Len()/2], "text": []byte("no picture")} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := python(t, `
import pathlib, sys, scan
for name in "whole", "cut", "text":
    try:
        v = scan.look((pathlib.Path(sys.argv[1]) / name).read_bytes())
        print(name, v["format"], v["width"], v["height"], v["dominant"])
    except scan.BadPicture:
        print(name, "bad")
`, dir)
	if want := "whole jpeg 90 60 black\ncut bad\ntext bad\n"; string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func python(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	path := "/usr/bin/python3" // Debian's, which has Debian's Pillow
	if _, err := os.Stat(path); err != nil {
		path = "python3"
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"-c", program}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH=../python", "PYTHONDONTWRITEBYTECODE=1")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.Bytes())
	}
	return out
}
