package term

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// redrawEvery bounds how often a terminal is written to; more often, nobody
// sees.
const redrawEvery = 80 * time.Millisecond

// A Board shows what several tasks are doing at once. Use one for everything
// that is written while tasks run, or lines get mixed up. It is safe for
// concurrent use and starts no goroutine: what is shown changes when a task
// says something.
type Board struct {
	mu     sync.Mutex
	out    io.Writer
	live   bool // out is a terminal
	width  func() int
	tasks  []*Task
	height int // lines on the terminal that the next drawing replaces
	last   time.Time
}

// NewBoard returns a board on s.Err.
func NewBoard(s *Streams) *Board {
	return &Board{out: s.Err, live: s.ErrTTY, width: s.Width}
}

// Task adds a task. Its Done ends it.
func (b *Board) Task() *Task {
	t := &Task{board: b}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tasks = append(b.tasks, t)
	return t
}

// Println writes a line that stays.
func (b *Board) Println(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.permanent(line)
	b.draw(true)
}

// permanent writes line above the tasks. It is called with mu held, and
// followed by draw.
func (b *Board) permanent(line string) {
	b.erase()
	fmt.Fprintln(b.out, line)
}

func (b *Board) erase() {
	if b.height > 0 {
		fmt.Fprintf(b.out, "\x1b[%dA\r\x1b[J", b.height)
		b.height = 0
	}
}

// draw shows the running tasks, with mu held. Unless now, it may leave that
// to a later call.
func (b *Board) draw(now bool) {
	if !b.live || !now && time.Since(b.last) < redrawEvery {
		return
	}
	b.last = time.Now()
	var screen strings.Builder
	for _, t := range b.tasks {
		if t.step != "" {
			screen.WriteString(t.line(b.width()))
			screen.WriteByte('\n')
		}
	}
	b.erase()
	_, _ = io.WriteString(b.out, screen.String()) // a terminal that went away needs no progress
	b.height = strings.Count(screen.String(), "\n")
}

// A Task is one thing that goes on, in steps.
type Task struct {
	board       *Board
	step        string
	done, total int64
	pending     bytes.Buffer // output without a line end yet
}

// Step says that something new has begun.
func (t *Task) Step(name string) {
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	t.finishStep()
	t.step, t.done, t.total = Clean(name), 0, 0
	if !t.board.live {
		t.board.permanent(t.step)
	}
	t.board.draw(true)
}

// Update says how many bytes of the step are done, of total; total is 0 if
// nobody knows.
func (t *Task) Update(done, total int64) {
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	t.done, t.total = done, total
	t.board.draw(done == total)
}

// Write shows output of a tool, line by line, above the tasks.
func (t *Task) Write(p []byte) (int, error) {
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	t.pending.Write(p)
	for {
		i := bytes.IndexByte(t.pending.Bytes(), '\n')
		if i < 0 {
			break
		}
		t.board.permanent("  " + cleanLine(string(t.pending.Next(i + 1)[:i])))
	}
	t.board.draw(true)
	return len(p), nil
}

// Done ends the task. line stays in its place, if it is not empty.
func (t *Task) Done(line string) {
	t.board.mu.Lock()
	defer t.board.mu.Unlock()
	t.finishStep()
	t.step = ""
	for i, other := range t.board.tasks {
		if other == t {
			t.board.tasks = append(t.board.tasks[:i:i], t.board.tasks[i+1:]...)
			break
		}
	}
	if line != "" {
		t.board.permanent(line)
	}
	t.board.draw(true)
}

// finishStep shows what is left of a tool's output and, where lines stay, how
// much the step moved.
func (t *Task) finishStep() {
	if t.pending.Len() > 0 {
		t.board.permanent("  " + cleanLine(t.pending.String()))
		t.pending.Reset()
	}
	if !t.board.live && t.step != "" && t.done > 0 {
		t.board.permanent(t.step + ": " + Size(t.done))
	}
}

// line returns what the terminal shows of a task.
func (t *Task) line(width int) string {
	right := ""
	switch {
	case t.total > 0:
		const slots = 24
		full := int(min(max(t.done, 0), t.total) * slots / t.total)
		right = fmt.Sprintf(" [%s%s] %s / %s", strings.Repeat("=", full), strings.Repeat(" ", slots-full), Size(t.done), Size(t.total))
	case t.done > 0:
		right = " " + Size(t.done)
	}
	left := []rune(t.step)
	if room := width - 1 - len(right); len(left) > room {
		left = left[:max(room, 0)]
	}
	return string(left) + right
}

// cleanLine keeps tabs, which line up what compilers and pip print.
func cleanLine(line string) string {
	parts := strings.Split(strings.TrimRight(line, "\r"), "\t")
	for i, p := range parts {
		parts[i] = Clean(p)
	}
	return strings.Join(parts, "\t")
}
