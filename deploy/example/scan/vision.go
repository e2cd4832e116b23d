package scan

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg" // decodes pictures of phones
	_ "image/png"  // and screenshots
	"slices"
)

const (
	// grid: a picture is looked at in grid × grid points, each the middle of its field.
	grid = 64
	// buckets is how many steps of brightness are told apart.
	buckets = 16
	// MaxPixels bounds what a picture may unpack to: some bytes can claim gigabytes.
	MaxPixels = 40_000_000
)

// Vision is what a picture shows.
type Vision struct {
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Format string `json:"format"`
	// Brightness is the mean, 0-255.
	Brightness int `json:"brightness"`
	// Dominant is the name of the most frequent colour, Colours the first three.
	Dominant string   `json:"dominant"`
	Colours  []Colour `json:"colours"`
	// Histogram counts the points by brightness, darkest first.
	Histogram []int `json:"histogram"`
}

// Colour is a colour's part of a picture.
type Colour struct {
	Name string `json:"name"`
	// Permille is its share.
	Permille int `json:"permille"`
	// RGB is the mean of its points, "#rrggbb".
	RGB string `json:"rgb"`
}

// Look decodes a picture and says what it shows. An error is the picture's: looking
// again does not help.
func Look(picture []byte) (Vision, error) {
	header, format, err := Check(picture)
	if err != nil {
		return Vision{}, err
	}
	img, _, err := image.Decode(bytes.NewReader(picture))
	if err != nil {
		return Vision{}, fmt.Errorf("the %s is damaged: %w", format, err)
	}
	v := Vision{Width: header.Width, Height: header.Height, Format: format}
	v.look(img)
	return v, nil
}

// Check reads a picture's header only.
func Check(picture []byte) (header image.Config, format string, err error) {
	header, format, err = image.DecodeConfig(bytes.NewReader(picture))
	if err != nil {
		return header, "", fmt.Errorf("neither PNG nor JPEG: %w", err)
	}
	if header.Width <= 0 || header.Height <= 0 || header.Width > MaxPixels/header.Height {
		return header, format, fmt.Errorf("the picture has %d × %d pixels, want 1 to %d", header.Width, header.Height, MaxPixels)
	}
	return header, format, nil
}

// look is integer arithmetic only: Python must come to the same result.
func (v *Vision) look(img image.Image) {
	type sum struct{ n, r, g, b int }
	sums := map[string]*sum{}
	v.Histogram = make([]int, buckets)
	light := 0
	from := img.Bounds().Min
	for y := range grid {
		for x := range grid {
			p := img.At(from.X+(2*x+1)*v.Width/(2*grid), from.Y+(2*y+1)*v.Height/(2*grid))
			c := color.NRGBAModel.Convert(p).(color.NRGBA) //nolint:forcetypeassert // what this model makes
			r, g, b := int(c.R), int(c.G), int(c.B)
			luma := (299*r + 587*g + 114*b) / 1000
			light += luma
			v.Histogram[luma*buckets/256]++
			name := nameOf(r, g, b)
			s := sums[name]
			if s == nil {
				s = &sum{}
				sums[name] = s
			}
			s.n, s.r, s.g, s.b = s.n+1, s.r+r, s.g+g, s.b+b
		}
	}
	v.Brightness = light / (grid * grid)
	for name, s := range sums {
		v.Colours = append(v.Colours, Colour{name, s.n * 1000 / (grid * grid), fmt.Sprintf("#%02x%02x%02x", s.r/s.n, s.g/s.n, s.b/s.n)})
	}
	// By share, then by name: the same everywhere.
	slices.SortFunc(v.Colours, func(a, b Colour) int {
		if sums[a.Name].n != sums[b.Name].n {
			return sums[b.Name].n - sums[a.Name].n
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	v.Dominant = v.Colours[0].Name
	v.Colours = v.Colours[:min(3, len(v.Colours))]
}

// nameOf names a colour by its hue, or its brightness where it has none.
func nameOf(r, g, b int) string {
	high, low := max(r, g, b), min(r, g, b)
	span := high - low
	switch {
	case high < 48:
		return "black"
	case span*6 < high && high > 200:
		return "white"
	case span*6 < high:
		return "grey"
	}
	// Degrees; 360 is added first, so that nothing negative is divided.
	var hue int
	switch high {
	case r:
		hue = (60*(g-b) + 360*span) / span % 360
	case g:
		hue = (60*(b-r) + 480*span) / span % 360
	default:
		hue = (60*(r-g) + 600*span) / span % 360
	}
	switch {
	case hue < 20 || hue >= 330:
		return "red"
	case hue < 45:
		return "orange"
	case hue < 70:
		return "yellow"
	case hue < 165:
		return "green"
	case hue < 195:
		return "cyan"
	case hue < 265:
		return "blue"
	}
	return "purple"
}
