package main

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/graphene-faas/graphene/cli"
	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/serve"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/internal/testkit"
)

const reference = "../../../docs/reference/cli"

func TestTheReferenceOfTheCommandLineIsTrue(t *testing.T) {
	f := &command.Factory{Streams: term.New(strings.NewReader(""), io.Discard, io.Discard), Dir: t.TempDir(), Version: "dev"}
	root := cli.New(f, []*cobra.Command{serve.NewCommand(serve.CommandOptions{})}, nil)
	root.InitDefaultHelpCmd()

	var pages []string
	var write func(*cobra.Command)
	write = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		c.InitDefaultHelpFlag()
		c.InitDefaultVersionFlag()
		var page bytes.Buffer
		if err := doc.GenMarkdownCustom(c, &page, func(link string) string { return link }); err != nil {
			t.Fatal(err)
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "_") + ".md"
		pages = append(pages, name)
		testkit.Golden(t, filepath.Join(reference, name), page.Bytes())
		for _, sub := range c.Commands() {
			write(sub)
		}
	}
	write(root)

	have, err := filepath.Glob(filepath.Join(reference, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range have {
		if !slices.Contains(pages, filepath.Base(file)) {
			t.Errorf("%s describes a command that does not exist: remove it", file)
		}
	}
}

func TestEveryCommandSaysWhatItDoesAndShowsHow(t *testing.T) {
	f := &command.Factory{Streams: term.New(strings.NewReader(""), io.Discard, io.Discard), Dir: t.TempDir()}
	root := cli.New(f, []*cobra.Command{serve.NewCommand(serve.CommandOptions{})}, nil)
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		topic := c.IsAdditionalHelpTopicCommand()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q; it is one line without a full stop", c.CommandPath(), c.Short)
		}
		if !topic && !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" { // which shows how in words of Cobra's
				check(sub)
			}
		}
	}
	check(root)
}
