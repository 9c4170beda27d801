package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/graphene-faas/graphene/internal/function"
)

// mediaSPDX is the type of a bill of materials in a registry.
const mediaSPDX = "application/spdx+json"

// An spdxDocument is a software bill of materials as SPDX 2.3 writes it in
// JSON, as far as it is needed here.
type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo,omitempty"`
	Purpose          string         `json:"primaryPackagePurpose,omitempty"`
	Download         string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	Copyright        string         `json:"copyrightText"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	Refs             []spdxRef      `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// sbom describes what the binary in the image called digest is made of: its
// modules, as the compiler recorded them, and Go's standard library.
func (p *programBuild) sbom(ctx context.Context, binary string, target function.Target, digest v1.Hash) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("read what %s is made of: %w", filepath.Base(binary), err)
	}
	sum, err := sha256Of(binary)
	if err != nil {
		return nil, err
	}
	licenses, err := p.licenses(ctx, target)
	if err != nil {
		return nil, err
	}
	const root = "SPDXRef-Package-program"
	doc := spdxDocument{
		Version:     "SPDX-2.3",
		DataLicense: "CC0-1.0",
		ID:          "SPDXRef-DOCUMENT",
		Name:        p.o.Name + "-" + target.OS + "-" + target.Arch,
		// Unique, and the same for the same image.
		Namespace: "https://graphene-faas.github.io/spdx/" + p.o.Name + "/" + digest.Hex,
		Creation:  spdxCreation{Created: epoch.Format(time.RFC3339), Creators: []string{"Tool: graphene-images"}},
		Packages: []spdxPackage{{
			ID: root, Name: p.o.Name, Version: p.o.Version, Purpose: "APPLICATION",
			Download: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: licenses.of(&info.Main), Copyright: noAssertion,
			Checksums: []spdxChecksum{{"SHA256", sum}},
		}},
		Relationships: []spdxRelationship{{"SPDXRef-DOCUMENT", "DESCRIBES", root}},
	}
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	modules := []*debug.Module{{Path: "std", Version: goVersion}}
	if info.Main.Path != "" && info.Main.Version != "(devel)" {
		modules = append(modules, &info.Main)
	}
	for _, m := range append(modules, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		pkg := modulePackage(m, licenses.of(m))
		doc.Packages = append(doc.Packages, pkg)
		doc.Relationships = append(doc.Relationships, spdxRelationship{root, "DEPENDS_ON", pkg.ID})
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

// notInID is what an SPDX identifier cannot hold.
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func modulePackage(m *debug.Module, license string) spdxPackage {
	p := spdxPackage{
		ID: "SPDXRef-Package-" + notInID.ReplaceAllString(m.Path+"-"+m.Version, "-"), Name: m.Path, Version: m.Version,
		Download: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: license, Copyright: noAssertion,
	}
	locator := "pkg:golang/" + m.Path + "@" + m.Version
	if m.Path == "std" {
		p.Download = "https://go.dev/dl/go" + m.Version + ".src.tar.gz"
	} else if m.Version != "" {
		p.Download = "https://proxy.golang.org/" + escapeModule(m.Path) + "/@v/" + escapeModule(m.Version) + ".zip"
	}
	p.Refs = []spdxRef{{"PACKAGE-MANAGER", "purl", locator}}
	return p
}

// escapeModule writes a path or version as the module proxy's protocol does:
// capital letters as an exclamation mark and the small one.
func escapeModule(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// moduleLicenses are SPDX names of licences by module path.
type moduleLicenses map[string]string

func (l moduleLicenses) of(m *debug.Module) string {
	if m.Path == "std" {
		return "BSD-3-Clause"
	}
	if name := l[m.Path]; name != "" {
		return name
	}
	return noAssertion
}

// licenses reads the licence files of the modules that the program is made of.
func (p *programBuild) licenses(ctx context.Context, target function.Target) (moduleLicenses, error) {
	cmd := command(ctx, "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}\t{{.Dir}}{{end}}", p.o.Package)
	cmd.Dir = p.o.Dir
	cmd.Env = goEnviron(cmd.Environ(), target)
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("list the modules of %s: %w", p.o.Package, err)
	}
	all := moduleLicenses{}
	for line := range strings.Lines(string(out)) {
		module, dir, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if _, seen := all[module]; !ok || seen {
			continue
		}
		if all[module], err = licenseIn(dir); err != nil {
			return nil, fmt.Errorf("find the licence of %s: %w", module, err)
		}
	}
	return all, nil
}

// licenseIn returns the SPDX name of the licence whose text is in dir, "" if
// that cannot be told.
func licenseIn(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		base, _, _ := strings.Cut(strings.ToUpper(e.Name()), ".")
		if !e.Type().IsRegular() || base != "LICENSE" && base != "LICENCE" && base != "COPYING" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		if name := licenseName(text); name != "" {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND "), nil
}

// licenseMarks are sentences that tell licences apart. The first whose marks
// are all there is it.
var licenseMarks = []struct {
	name  string
	marks []string
}{
	{"Apache-2.0", []string{"Apache License", "Version 2.0"}},
	{"MPL-2.0", []string{"Mozilla Public License", "2.0"}},
	{"BSD-3-Clause", []string{"Redistribution and use in source and binary forms", "to endorse or promote"}},
	{"BSD-2-Clause", []string{"Redistribution and use in source and binary forms"}},
	{"ISC", []string{"Permission to use, copy, modify, and/or distribute"}},
	{"ISC", []string{"Permission to use, copy, modify, and distribute this software for any purpose with or without fee"}},
	{"MIT", []string{"Permission is hereby granted, free of charge", "THE SOFTWARE IS PROVIDED"}},
}

func licenseName(text []byte) string {
	flat := bytes.Join(bytes.Fields(text), []byte(" "))
	for _, l := range licenseMarks {
		if !slices.ContainsFunc(l.marks, func(mark string) bool { return !bytes.Contains(flat, []byte(mark)) }) {
			return l.name
		}
	}
	return ""
}

func sha256Of(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
