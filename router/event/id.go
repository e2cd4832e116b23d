package event

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ID is the place of an entry in a Redis stream, "1737415902456-0": the
// milliseconds of the Redis clock and a counter within them. The zero ID stands
// before every entry.
//
// https://redis.io/docs/latest/develop/data-types/streams/#entry-ids
type ID struct {
	Ms  uint64
	Seq uint64
}

// MaxID stands after every entry.
func MaxID() ID { return ID{Ms: math.MaxUint64, Seq: math.MaxUint64} }

// ParseID reads "[0-9]+-[0-9]+", the only form that the bus hands out. It
// refuses signs, blanks and numbers beyond 64 bits.
func ParseID(s string) (ID, error) {
	ms, seq, ok := strings.Cut(s, "-")
	if ok && digits(ms) && digits(seq) {
		m, err1 := strconv.ParseUint(ms, 10, 64)
		n, err2 := strconv.ParseUint(seq, 10, 64)
		if err1 == nil && err2 == nil {
			return ID{m, n}, nil
		}
	}
	return ID{}, fmt.Errorf("%q is not an id of the form [0-9]+-[0-9]+", clip(s))
}

// ParseIDs reads IDs joined by commas, the form of a Watch cursor.
func ParseIDs(s string) ([]ID, error) {
	var ids []ID
	for part := range strings.SplitSeq(s, ",") {
		id, err := ParseID(part)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// JoinIDs is the inverse of ParseIDs.
func JoinIDs(ids []ID) string {
	var b []byte
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = id.Append(b)
	}
	return string(b)
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// String is the inverse of ParseID.
func (id ID) String() string { return string(id.Append(nil)) }

// Append appends the text of the ID.
func (id ID) Append(b []byte) []byte {
	b = strconv.AppendUint(b, id.Ms, 10)
	b = append(b, '-')
	return strconv.AppendUint(b, id.Seq, 10)
}

// IsZero tells whether the ID stands before every entry.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs as Redis does.
func (id ID) Compare(o ID) int {
	if c := cmp.Compare(id.Ms, o.Ms); c != 0 {
		return c
	}
	return cmp.Compare(id.Seq, o.Seq)
}

// Prev is the largest ID before this one; the zero ID is its own.
func (id ID) Prev() ID {
	switch {
	case id.Seq > 0:
		return ID{id.Ms, id.Seq - 1}
	case id.Ms > 0:
		return ID{id.Ms - 1, math.MaxUint64}
	}
	return id
}

// Time is when Redis took the entry, in UTC.
func (id ID) Time() time.Time { return timeOf(id.Ms) }

func timeOf(ms uint64) time.Time {
	return time.UnixMilli(int64(min(ms, maxMs))).UTC()
}

// maxMs is the end of the year 9999, the last that RFC 3339 and a protobuf
// Timestamp can express.
const maxMs = 253402300799999
