// Package term writes for people on a terminal and for programs behind a pipe.
//
// [Streams] know which of the two they lead to. Results go to Streams.Out, as
// a [Table] for people or as JSON or YAML for programs ([Format]); everything
// else, progress above all ([Board]), goes to Streams.Err, so that a pipe gets
// results only. On a terminal progress is a line that changes; elsewhere each
// step is a line of its own.
package term

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// InTTY and ErrTTY tell whether a person is at the other end.
	InTTY, ErrTTY bool
}

// New returns streams that know a terminal when they are given one.
func New(in io.Reader, out, err io.Writer) *Streams {
	return &Streams{In: in, Out: &checked{w: out}, Err: err, InTTY: isTerminal(in), ErrTTY: isTerminal(err)}
}

// Lost returns the first error of writing to Out: a result that did not
// arrive, on a full disk for example, must not look like success.
func (s *Streams) Lost() error {
	if c, ok := s.Out.(*checked); ok && c.err != nil {
		return fmt.Errorf("write the result: %w", c.err)
	}
	return nil
}

// checked remembers the first error of a writer.
type checked struct {
	w   io.Writer
	err error
}

func (c *checked) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Width returns how many columns Err has; 80 if it is no terminal.
func (s *Streams) Width() int {
	if f, ok := s.Err.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}

// Printf writes to Out.
func (s *Streams) Printf(format string, args ...any) { fmt.Fprintf(s.Out, format, args...) }

// Notef writes to Err: what a person wants to know, and a program does not.
func (s *Streams) Notef(format string, args ...any) { fmt.Fprintf(s.Err, format, args...) }

// ReadPassword asks for a password, and does not show what is typed. In must
// be a terminal.
func (s *Streams) ReadPassword(prompt string) (string, error) {
	f, ok := s.In.(*os.File)
	if !ok {
		return "", errors.New("read password: standard input is no terminal")
	}
	s.Notef("%s", prompt)
	text, err := term.ReadPassword(int(f.Fd()))
	s.Notef("\n")
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(text), nil
}

// ReadLine reads a line from In, without its end. An end of input after some
// text ends the line.
func (s *Streams) ReadLine() (string, error) {
	line, err := bufio.NewReader(s.In).ReadString('\n')
	if errors.Is(err, io.EOF) && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}

// Clean returns text without the characters that could make a terminal do
// something, for words that come from elsewhere. Line breaks and tabs become
// spaces.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r):
			return -1
		}
		return r
	}, text)
}

// Size returns a number of bytes for people: 512 B, 1.5 kB, 18.5 MB.
func Size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB"} {
		if f /= 1000; f < 999.95 {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
	}
	return fmt.Sprintf("%.1f TB", f/1000)
}

// Count returns "1 function", "2 functions".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
