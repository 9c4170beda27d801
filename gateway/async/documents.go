package async

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"

	"github.com/graphene-faas/graphene/internal/fault"
)

// maxDocument bounds one document of a batch, in bytes.
const maxDocument = 16 << 20

// documents returns what reads the documents of a batch one by one, as JSON,
// until io.EOF. The content type is that of NDJSON, which is also the default,
// or text/csv, whose first line names the fields of each row's object.
func documents(contentType string, r io.Reader) (func() ([]byte, error), error) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, fault.Invalid.Errorf("Content-Type is %q: %w", contentType, err)
	}
	r = withoutMark(r)
	switch kind {
	case "text/csv":
		return rows(r), nil
	case "", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json", "text/plain",
		"application/octet-stream", "application/x-www-form-urlencoded": // what clients say who say nothing
		return lines(r), nil
	}
	return nil, fault.Invalid.Errorf("Content-Type is %q, want application/x-ndjson or text/csv", contentType)
}

// withoutMark returns what follows the byte order mark that spreadsheets write
// in front of a file, and all of r if there is none.
func withoutMark(r io.Reader) io.Reader {
	const mark = "\ufeff"
	in := bufio.NewReader(r)
	if first, err := in.Peek(len(mark)); err == nil && string(first) == mark {
		_, _ = in.Discard(len(mark)) // has been read
	}
	return in
}

// lines reads one document from each line that is not empty.
func lines(r io.Reader) func() ([]byte, error) {
	source := &remembering{r: r}
	in := bufio.NewScanner(source)
	in.Buffer(make([]byte, 0, 64<<10), maxDocument)
	in.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if atEOF && source.err != nil && bytes.IndexByte(data, '\n') < 0 {
			return 0, nil, nil // what came of the last line is not all of it
		}
		return bufio.ScanLines(data, atEOF)
	})
	n := 0
	return func() ([]byte, error) {
		for in.Scan() {
			n++
			line := bytes.TrimSpace(in.Bytes())
			if len(line) == 0 {
				continue
			}
			if !json.Valid(line) {
				return nil, fault.Invalid.Errorf("line %d of the batch is no JSON: %.60s", n, line)
			}
			return bytes.Clone(line), nil
		}
		switch err := in.Err(); {
		case err == nil:
			return nil, io.EOF
		case errors.Is(err, bufio.ErrTooLong):
			return nil, fault.TooLarge.Errorf("line %d of the batch exceeds %d bytes", n+1, maxDocument)
		default:
			return nil, fault.Invalid.Errorf("the batch breaks off after line %d: %w", n, err)
		}
	}
}

// remembering keeps the error that r ended with, unless that is its end.
type remembering struct {
	r   io.Reader
	err error
}

func (m *remembering) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

// rows reads one document from each row after the first, whose names must
// differ. Values are strings.
func rows(r io.Reader) func() ([]byte, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	var names [][]byte
	return func() ([]byte, error) {
		row, err := in.Read()
		if err == nil && names == nil {
			for i, name := range row {
				if slices.Contains(row[:i], name) {
					return nil, fault.Invalid.Errorf("read the batch: two columns are named %q", name)
				}
				quoted, err := json.Marshal(name)
				if err != nil {
					return nil, fmt.Errorf("read the names of columns: %w", err)
				}
				names = append(names, quoted)
			}
			row, err = in.Read()
		}
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fault.Invalid.Errorf("read the batch: %w", err)
		}
		var object bytes.Buffer
		for i, value := range row {
			object.WriteByte("{,"[min(i, 1)])
			object.Write(names[i])
			object.WriteByte(':')
			quoted, err := json.Marshal(value)
			if err != nil {
				return nil, fmt.Errorf("read a row of the batch: %w", err)
			}
			object.Write(quoted)
		}
		object.WriteByte('}')
		return object.Bytes(), nil
	}
}
