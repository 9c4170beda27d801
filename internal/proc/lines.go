package proc

import (
	"bufio"
	"bytes"
	"io"
)

// Lines calls deliver for each line of r, without its newline, until r ends or
// fails. A line longer than maxLine bytes (zero: [DefaultMaxLine]) comes in
// pieces of at most that length. The slice is only valid during the call.
// Memory grows with the longest line seen, never beyond maxLine.
func Lines(r io.Reader, maxLine int, deliver func(line []byte)) {
	if maxLine <= 0 {
		maxLine = DefaultMaxLine
	}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine+1) // room for the newline
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, '\n'); i >= 0 && i <= maxLine {
			return i + 1, data[:i], nil
		}
		if len(data) > maxLine {
			return maxLine, data[:maxLine], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	for s.Scan() {
		deliver(s.Bytes())
	}
}
