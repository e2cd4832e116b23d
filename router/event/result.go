package event

import (
	"encoding/json"
	"strconv"
	"strings"
)

// MaxResultDepth bounds the nesting of a legacy worker's result: protobuf-go reads
// no more than 10,000 messages deep, of which a level takes three.
const MaxResultDepth = 1000

// ValidResult tells whether every reader can decode the text as JSON: it is nested
// at most MaxResultDepth deep, and its numbers are doubles.
func ValidResult(text string) bool {
	if !json.Valid([]byte(text)) {
		return false
	}
	depth := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > MaxResultDepth {
				return false
			}
		case '}', ']':
			depth--
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			n := len(text[i:]) - len(strings.TrimLeft(text[i:], "+-.eE0123456789"))
			if _, err := strconv.ParseFloat(text[i:i+n], 64); err != nil {
				return false
			}
			i += n - 1
		}
	}
	return true
}
