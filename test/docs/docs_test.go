// Package docs holds the documentation to what the code does: links lead
// somewhere, names of code are declared where they are said to be, command
// lines are ones that the program takes, and stack files are ones that it
// reads.
package docs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli"
	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/serve"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
)

// root is where the repository lies, seen from this package.
const root = "../.."

func TestThePagesAreTrue(t *testing.T) {
	repository := os.DirFS(root)
	pages := pages(t, repository)
	if len(pages) < 20 {
		t.Fatalf("only %d pages were found: the walk is broken", len(pages))
	}
	checked := map[string]int{}
	for _, name := range pages {
		p := read(t, repository, name)
		for _, problem := range p.problems(repository, checked) {
			t.Errorf("%s:%s", name, problem)
		}
	}
	for kind, atLeast := range map[string]int{"links": 100, "names": 40, "commands": 40, "stack files": 2} {
		if checked[kind] < atLeast {
			t.Errorf("only %d %s were checked, want %d or more: pages are not read as they are written", checked[kind], kind, atLeast)
		}
	}
}

func TestEveryPageIsReachedFromTheIndex(t *testing.T) {
	repository := os.DirFS(root)
	index := read(t, repository, "docs/README.md")
	var linked []string
	for _, l := range index.links {
		linked = append(linked, path.Join("docs", l.target))
	}
	for _, name := range pages(t, repository) {
		switch {
		case !strings.HasPrefix(name, "docs/"), name == index.name,
			strings.HasPrefix(name, "docs/reference/cli/") && name != "docs/reference/cli/graphene.md",
			strings.HasPrefix(name, "docs/decisions/") && name != "docs/decisions/README.md":
			continue
		}
		if !slices.Contains(linked, name) {
			t.Errorf("docs/README.md does not link %s", name)
		}
	}
}

// TestWhatIsWrongIsFound shows each check a page that it must refuse.
func TestWhatIsWrongIsFound(t *testing.T) {
	const fence = "```"
	text := `# Mistakes

[gone](gone.md), [here](#mistakes), [nowhere](#nowhere), [there](other.md#part-one), [not there](other.md#part-two),
and [` + "`Known`" + `](code.go), [` + "`Missing`" + `](code.go), [elsewhere](https://example.com/x).

` + fence + `
graphene up --watch && graphene up --wach
sudo cat x | graphene login -u admin --password-stdin   # --comments are none
$ graphene lst
graphene scale --replicas 0
` + fence + `

    graphene invoke hello --nothing

` + fence + `yaml
version: 1.0
functions:
  a:
    lang: go
    handler: ./a
    wokers: 2
` + fence + `
`
	files := fstest.MapFS{
		"page.md":  {Data: []byte(text)},
		"other.md": {Data: []byte("# Other\n\n## Part *one*\n")},
		"code.go":  {Data: []byte("package code\n\nfunc Known() {}\n")},
	}
	got := parse("page.md", text).problems(files, map[string]int{})
	want := []string{
		"3: gone.md does not exist",
		"3: page.md has no heading #nowhere",
		"3: other.md has no heading #part-two",
		"4: code.go declares no Missing",
		"7: graphene up --wach: unknown flag: --wach",
		`9: graphene lst: there is no command "graphene lst"; did you mean list?; "graphene --help" lists all`,
		"10: graphene scale --replicas 0: ",
		"13: graphene invoke hello --nothing: unknown flag: --nothing",
		`16: page.md:6:5: function "a" has an unknown key "wokers"`,
	}
	// What follows the beginning are the words of the code under test.
	for i := range min(len(got), len(want)) {
		if strings.HasPrefix(got[i], want[i]) {
			got[i] = want[i]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// pages lists the documentation: every Markdown file that is not somebody
// else's.
func pages(t *testing.T, repository fs.FS) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(repository, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ".md"):
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func read(t *testing.T, repository fs.FS, name string) page {
	t.Helper()
	text, err := fs.ReadFile(repository, name)
	if err != nil {
		t.Fatal(err)
	}
	return parse(name, string(text))
}

// A page is what of a Markdown file can be checked.
type page struct {
	name     string
	headings []string // as anchors
	links    []link
	blocks   []block
}

type link struct {
	line         int
	text, target string
}

// A block is code: fenced, or a run of indented lines.
type block struct {
	line     int // of its first line of code
	language string
	lines    []string
}

var (
	linkPattern    = regexp.MustCompile(`\[([^\]]*)\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`^#{1,6} +(.*)$`)
)

func parse(name, text string) page {
	p := page{name: name}
	var open *block // the fenced block that the line is in
	indented := -1  // the index of the indented block that the line continues
	number := 0
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		number++
		line := lines.Text()
		if language, ok := strings.CutPrefix(line, "```"); ok {
			if open == nil {
				open = &block{line: number + 1, language: language}
			} else {
				p.blocks = append(p.blocks, *open)
				open = nil
			}
			continue
		}
		switch code, isCode := strings.CutPrefix(line, "    "); {
		case open != nil:
			open.lines = append(open.lines, line)
			continue
		case isCode && indented >= 0:
			p.blocks[indented].lines = append(p.blocks[indented].lines, code)
			continue
		case isCode:
			p.blocks = append(p.blocks, block{line: number, lines: []string{code}})
			indented = len(p.blocks) - 1
			continue
		}
		indented = -1
		if m := headingPattern.FindStringSubmatch(line); m != nil {
			p.headings = append(p.headings, anchor(m[1]))
		}
		for _, m := range linkPattern.FindAllStringSubmatch(line, -1) {
			p.links = append(p.links, link{number, m[1], m[2]})
		}
	}
	return p
}

var notInAnchors = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchor returns what links to a heading end with.
func anchor(heading string) string {
	heading = linkPattern.ReplaceAllString(heading, "$1")
	return strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// problems returns what is wrong with the page, each beginning with its line,
// and counts in checked what it looked at.
func (p page) problems(repository fs.FS, checked map[string]int) []string {
	var found []string
	report := func(line int, err error) {
		if err != nil {
			found = append(found, fmt.Sprintf("%d: %v", line, err))
		}
	}
	for _, l := range p.links {
		if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
			continue
		}
		checked["links"]++
		report(l.line, p.checkLink(repository, l))
		if name, ok := named(l); ok {
			checked["names"]++
			report(l.line, checkName(repository, path.Join(path.Dir(p.name), l.target), name))
		}
	}
	for _, b := range p.blocks {
		if b.language == "yaml" && slices.ContainsFunc(b.lines, func(l string) bool { return strings.HasPrefix(l, "functions:") }) {
			checked["stack files"]++
			st, err := stack.Parse(p.name, []byte(strings.Join(b.lines, "\n")))
			report(b.line, err)
			if err == nil {
				for _, w := range st.Warnings {
					report(b.line, errors.New(w))
				}
			}
		}
		// The pages of the commands are generated from the commands.
		if strings.HasPrefix(p.name, "docs/reference/cli/") || !slices.Contains([]string{"", "sh", "console", "ini"}, b.language) {
			continue
		}
		for i, line := range b.lines {
			for _, args := range commandLines(line) {
				checked["commands"]++
				if err := checkCommand(args); err != nil {
					report(b.line+i, fmt.Errorf("graphene %s: %w", strings.Join(args, " "), err))
				}
			}
		}
	}
	return found
}

func (p page) checkLink(repository fs.FS, l link) error {
	file, fragment, _ := strings.Cut(l.target, "#")
	name := p.name
	if file != "" {
		name = path.Join(path.Dir(p.name), file)
	}
	if _, err := fs.Stat(repository, name); err != nil {
		return fmt.Errorf("%s does not exist", name)
	}
	if fragment == "" {
		return nil
	}
	text, err := fs.ReadFile(repository, name)
	if err != nil {
		return err
	}
	if !slices.Contains(parse(name, string(text)).headings, fragment) {
		return fmt.Errorf("%s has no heading #%s", name, fragment)
	}
	return nil
}

var codePattern = regexp.MustCompile("^`(?:[A-Za-z_]+\\.)?([A-Za-z_]+)`$")

// named returns the name of the code that a link to a source file is about.
func named(l link) (string, bool) {
	m := codePattern.FindStringSubmatch(l.text)
	if m == nil || !slices.Contains([]string{".go", ".py"}, path.Ext(l.target)) {
		return "", false
	}
	return m[1], true
}

// checkName checks that a source file declares name, or is of the package
// called so.
func checkName(repository fs.FS, file, name string) error {
	text, err := fs.ReadFile(repository, file)
	if err != nil {
		return nil // the link is reported
	}
	declared := regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type |package |def |class )` + name + `\b`)
	if !declared.Match(text) {
		return fmt.Errorf("%s declares no %s", file, name)
	}
	return nil
}

// commandLines returns the arguments of every call of graphene in a line of
// shell.
func commandLines(line string) [][]string {
	line = strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "ExecStart=")
	var calls [][]string
	for _, words := range shell(line) {
		if len(words) > 0 && words[0] == "sudo" {
			words = words[1:]
		}
		for len(words) > 0 && assignment.MatchString(words[0]) {
			words = words[1:]
		}
		if len(words) > 0 && path.Base(words[0]) == "graphene" {
			calls = append(calls, words[1:])
		}
	}
	return calls
}

var assignment = regexp.MustCompile(`^[A-Za-z_]+=`)

// shell splits a line into commands, and those into words, as far as the
// documentation needs it: with quotes, comments, pipes and redirections.
func shell(line string) [][]string {
	commands := [][]string{nil}
	var word strings.Builder
	var quote rune
	inWord, drop := false, false // drop: the next word is a redirection's file
	end := func() {
		if inWord && !drop {
			last := len(commands) - 1
			commands[last] = append(commands[last], word.String())
		}
		if inWord {
			drop = false
		}
		word.Reset()
		inWord = false
	}
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t':
			end()
		case c == '#' && !inWord:
			return commands
		case strings.ContainsRune("|&;()", c):
			end()
			commands = append(commands, nil)
		case c == '<' || c == '>':
			end()
			drop = true
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	end()
	return commands
}

// checkCommand reports why the program would refuse a command line before it
// does anything.
func checkCommand(args []string) error {
	f := &command.Factory{Streams: term.New(strings.NewReader(""), io.Discard, io.Discard)}
	program := cli.New(f, []*cobra.Command{serve.NewCommand(serve.CommandOptions{})}, nil)
	cmd, rest, err := program.Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

func TestRemovingEverythingRemovesEveryDefinition(t *testing.T) {
	repository := os.DirFS(root)
	definitions, err := fs.Glob(repository, "charts/graphene/files/crd/*.yaml")
	if err != nil || len(definitions) == 0 {
		t.Fatalf("found %d definitions: %v", len(definitions), err)
	}
	named := regexp.MustCompile(`(?m)^  name: (\S+)$`)
	removal := regexp.MustCompile(`(?m)^ *kubectl delete crd .*$`)
	for _, page := range []string{"docs/guide/cluster.md", "charts/graphene/README.md"} {
		text, err := fs.ReadFile(repository, page)
		if err != nil {
			t.Fatal(err)
		}
		removed := strings.Fields(removal.FindString(string(text)))
		for _, file := range definitions {
			definition, err := fs.ReadFile(repository, file)
			if err != nil {
				t.Fatal(err)
			}
			if name := named.FindSubmatch(definition); name == nil || !slices.Contains(removed, string(name[1])) {
				t.Errorf("%s does not remove what %s defines: %q", page, file, name)
			}
		}
	}
}
