package console

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// palette reads the colours of a scheme from the style.
func palette(t *testing.T, block string) map[string][3]float64 {
	t.Helper()
	out := map[string][3]float64{}
	for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`).FindAllStringSubmatch(block, -1) {
		n, err := strconv.ParseUint(m[2], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		out[m[1]] = [3]float64{float64(n >> 16), float64(n >> 8 & 0xff), float64(n & 0xff)}
	}
	return out
}

// luminance and contrast are those of WCAG 2.2.
func luminance(c [3]float64) float64 {
	weights, sum := [3]float64{0.2126, 0.7152, 0.0722}, 0.0
	for i, v := range c {
		if v /= 255; v <= 0.04045 {
			v /= 12.92
		} else {
			v = math.Pow((v+0.055)/1.055, 2.4)
		}
		sum += weights[i] * v
	}
	return sum
}

func contrast(a, b [3]float64) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func TestPalette_TextAndControlsHaveTheContrastOfWCAG(t *testing.T) {
	css := body(t, "/style.css")
	light, dark, found := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	if !found {
		t.Fatal("no dark scheme")
	}
	dark, _, _ = strings.Cut(dark, "\n}\n")
	const text, control = 4.5, 3 // AA, 1.4.3 and 1.4.11
	for scheme, block := range map[string]string{"light": light, "dark": dark} {
		p := palette(t, block)
		if len(p) < 17 {
			t.Fatalf("%s has %d colours", scheme, len(p))
		}
		check := func(least float64, front string, backs ...string) {
			for _, back := range backs {
				f, ok := p[front]
				b, ok2 := p[back]
				if !ok || !ok2 {
					t.Errorf("%s: no --%s or --%s", scheme, front, back)
				} else if c := contrast(f, b); c < least {
					t.Errorf("%s: --%s on --%s is %.2f to 1, want %.1f", scheme, front, back, c, least)
				}
			}
		}
		for _, front := range []string{"text", "quiet"} {
			check(text, front, "page", "card", "sunk", "ok-tint", "busy-tint", "warn-tint", "bad-tint")
		}
		for _, front := range []string{"brand", "ok", "busy", "warn", "bad"} {
			check(text, front, "page", "card", "sunk")
		}
		for _, tone := range []string{"ok", "busy", "warn", "bad"} {
			check(text, tone, tone+"-tint")
		}
		check(text, "on-brand", "brand")
		check(text, "card", "text") // what was copied
		check(control, "field", "card", "page")
		check(control, "busy", "card", "page", "sunk") // the focus
	}
}
