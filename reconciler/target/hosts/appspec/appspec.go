// Package appspec reads CodeDeploy's application specification files,
// appspec.yml, for servers: which files of a revision go where, with which
// permissions, and which scripts run at which lifecycle event.
//
// It takes what CodeDeploy's agent takes, YAML and JSON, and refuses what that
// refuses; where the agent would quietly do something else than the manual says,
// the comment at the place tells what this package does instead. Every refusal
// names file, line and column, and what to write.
//
// A file for Amazon ECS or AWS Lambda has another form: PlatformOf tells them
// apart. Carrying a Spec out is left to package deploy.
package appspec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Names are those an application specification file may have, in the order in
// which they are looked for.
var Names = []string{"appspec.yml", "appspec.yaml", "appspec.json"}

// Event names a lifecycle event. Besides those below there may be others, which
// only the local deployer is told to run.
type Event string

// The lifecycle events, in their order. Those without a comment may have scripts.
const (
	Start              Event = "Start" // reserved
	BeforeBlockTraffic Event = "BeforeBlockTraffic"
	BlockTraffic       Event = "BlockTraffic" // reserved
	AfterBlockTraffic  Event = "AfterBlockTraffic"
	ApplicationStop    Event = "ApplicationStop" // of the previous revision
	DownloadBundle     Event = "DownloadBundle"  // reserved
	BeforeInstall      Event = "BeforeInstall"
	Install            Event = "Install" // reserved
	AfterInstall       Event = "AfterInstall"
	ApplicationStart   Event = "ApplicationStart"
	ValidateService    Event = "ValidateService"
	BeforeAllowTraffic Event = "BeforeAllowTraffic"
	AllowTraffic       Event = "AllowTraffic" // reserved
	AfterAllowTraffic  Event = "AfterAllowTraffic"
	End                Event = "End" // reserved
)

// Scriptable are the events that may have scripts, in their order.
var Scriptable = []Event{
	BeforeBlockTraffic, AfterBlockTraffic, ApplicationStop, BeforeInstall, AfterInstall,
	ApplicationStart, ValidateService, BeforeAllowTraffic, AfterAllowTraffic,
}

// reserved are the events that scripts cannot be given for.
var reserved = []Event{Start, BlockTraffic, DownloadBundle, Install, AllowTraffic, End}

// Spec is an application specification file for servers.
type Spec struct {
	File string // its name, for messages

	OS          string // Linux or Windows
	Files       []File
	FileExists  FileExists // "" when the file does not say
	Permissions []Permission
	Hooks       map[Event][]Script
}

// The operating systems.
const (
	Linux   = "linux"
	Windows = "windows"
)

// FileExists says what becomes of a file that stands where one is to be put.
type FileExists string

// The behaviours. Disallow is CodeDeploy's default.
const (
	Disallow  FileExists = "DISALLOW"
	Overwrite FileExists = "OVERWRITE"
	Retain    FileExists = "RETAIN"
)

// Position is a place in the file.
type Position struct{ Line, Column int }

// File is one entry of "files".
type File struct {
	Source      string // in the revision, slash-separated and clean; "." is all of it
	Destination string // absolute and clean; always a directory
	At          Position
}

// Permission is one entry of "permissions".
type Permission struct {
	Object  string // absolute and clean
	Pattern string // Everything, or a glob of names directly below Object
	Except  []string
	Owner   string // "": left as it is
	Group   string // "": left as it is
	Mode    *Mode  // nil: left as it is
	ACLs    []ACL
	Context *Context
	Files   bool // whether it is for files
	Dirs    bool // whether it is for directories

	Patterned bool // whether Pattern or Except was given
	At        Position
}

// Everything is the pattern that matches at any depth.
const Everything = "**"

// Mode is permission bits as chmod takes them: with 04000 for setuid and so on.
type Mode uint32

func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// Script is one entry of a hook.
type Script struct {
	Location string // in the revision, slash-separated and clean
	Timeout  time.Duration
	RunAs    string // "": whoever deploys
	Sudo     bool
	At       Position
}

// DefaultTimeout is that of scripts which give none.
const DefaultTimeout = time.Hour

// Options are what Parse is to be strict about.
type Options struct {
	// Strict makes problems of what CodeDeploy ignores: unknown keys and hooks.
	Strict bool
	// Events are all that may have hooks. nil: those of CodeDeploy, and another one
	// is only warned of.
	Events []Event
}

// Parse reads a file for servers. Warnings tell of what CodeDeploy accepts and
// ignores. The error is yamlfile.Problems: all that is wrong, in the order in
// which CodeDeploy looks, so that its first is the one CodeDeploy would name.
func Parse(file string, data []byte, o Options) (*Spec, yamlfile.Problems, error) {
	p := &parser{file: file, options: o}
	top := p.document(data)
	if top == nil {
		return nil, p.warnings, p.problems.Err()
	}
	s := p.spec(top)
	if err := p.problems.Err(); err != nil {
		return nil, p.warnings, err
	}
	return s, p.warnings, nil
}

// parser collects what is wrong.
type parser struct {
	file               string
	options            Options
	problems, warnings yamlfile.Problems
}

func (p *parser) at(n *yaml.Node, fix, format string, args ...any) yamlfile.Problem {
	return yamlfile.Problem{File: p.file, Line: n.Line, Column: n.Column, What: fmt.Sprintf(format, args...), Fix: fix}
}

func (p *parser) problem(n *yaml.Node, fix, format string, args ...any) {
	p.problems = append(p.problems, p.at(n, fix, format, args...))
}

// ignored tells of what CodeDeploy would not.
func (p *parser) ignored(n *yaml.Node, fix, format string, args ...any) {
	found := p.at(n, fix, format, args...)
	if p.options.Strict {
		p.problems = append(p.problems, found)
	} else {
		p.warnings = append(p.warnings, found)
	}
}

// document is the file's top mapping, nil when there is none.
func (p *parser) document(data []byte) *yaml.Node {
	if strings.TrimSpace(string(data)) == "" {
		p.problems = yamlfile.Problems{{
			File: p.file,
			What: "application specification file was empty; it must have at least 'version' and 'os'",
			Fix:  "write version: 0.0 and os: linux",
		}}
		return nil
	}
	top, err := yamlfile.ParseAliased(p.file, plainJSON(data))
	if err != nil {
		p.problems, _ = yamlfile.ProblemsIn(err)
		return nil
	}
	if top.Kind == yaml.ScalarNode && top.ShortTag() == "!!null" {
		p.problem(top, "write version: 0.0 and os: linux",
			"application specification file was empty; it must have at least 'version' and 'os'")
		return nil
	}
	if top.Kind != yaml.MappingNode {
		p.problem(top, "write version: 0.0, os: linux, files: and hooks:, each on a line of its own",
			"is %s, not a mapping", kind(top))
		return nil
	}
	return top
}

// plainJSON lets JSON be indented with tabs, which YAML's flow style would not:
// strings of JSON cannot hold one.
func plainJSON(data []byte) []byte {
	if strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		return []byte(strings.ReplaceAll(string(data), "\t", " "))
	}
	return data
}

var topKeys = []string{"version", "os", "files", "file_exists_behavior", "permissions", "hooks"}

func (p *parser) spec(top *yaml.Node) *Spec {
	s := &Spec{File: p.file, Hooks: map[Event][]Script{}}
	p.duplicates(top)
	if platform := platformOf(top); platform != Server {
		p.problem(platform.at(top), platform.advice(), "is for %s, not for servers", platform)
		return s
	}
	fields := p.fields(top, "the file", topKeys)
	p.version(top, fields["version"])
	s.OS = p.os(top, fields["os"])
	p.hooks(s, fields["hooks"])
	p.files(s, fields["files"])
	p.permissions(s, fields["permissions"])
	s.FileExists = p.fileExists(fields["file_exists_behavior"])
	return s
}

// duplicates are refused: which of them counts differs between parsers.
func (p *parser) duplicates(n *yaml.Node) {
	seen := map[string]bool{}
	for key := range yamlfile.Pairs(n) {
		if seen[key.Value] {
			p.problem(key, "keep one of them", "%q is given twice", key.Value)
		}
		seen[key.Value] = true
	}
}

// fields are the values of a mapping by its keys; unknown ones are told.
func (p *parser) fields(n *yaml.Node, of string, known []string) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	for key, value := range yamlfile.Pairs(n) {
		if slices.Contains(known, key.Value) {
			if all[key.Value] == nil {
				all[key.Value] = value
			}
			continue
		}
		fix := "known keys: " + strings.Join(known, ", ")
		if near, ok := yamlfile.Nearest(key.Value, known); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		p.ignored(key, fix, "unknown key %q of %s is ignored", key.Value, of)
	}
	return all
}

func isNull(n *yaml.Node) bool {
	return n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func isText(n *yaml.Node) bool {
	return n != nil && n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null"
}

// kind is what a value is, for people.
func kind(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "nothing"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	return strconv.Quote(n.Value)
}

// version must be the number nought. The agent refuses the text "0.0", although its
// message asks to write that.
func (p *parser) version(top, n *yaml.Node) {
	const fix = "write version: 0.0, without quotes"
	switch {
	case n == nil:
		p.problem(top, fix, "version is missing")
	case !isText(n):
		p.problem(n, fix, "version is %s, not 0.0", kind(n))
	case n.ShortTag() != "!!float" && n.ShortTag() != "!!int":
		p.problem(n, fix, "version is the text %q, not the number 0.0", n.Value)
	default:
		if v, err := strconv.ParseFloat(n.Value, 64); err != nil || v != 0 {
			p.problem(n, fix, "version is %s; 0.0 is the only one there is", n.Value)
		}
	}
}

func (p *parser) os(top, n *yaml.Node) string {
	const fix = "write os: linux"
	switch {
	case n == nil:
		p.problem(top, fix, "os is missing")
	case !isText(n):
		p.problem(n, fix, "unsupported operating system: %s", kind(n))
	case n.Value != Linux && n.Value != Windows:
		p.problem(n, fix, "unsupported operating system %q", n.Value)
	default:
		return n.Value
	}
	return ""
}

func (p *parser) fileExists(n *yaml.Node) FileExists {
	if isNull(n) {
		return ""
	}
	switch b := FileExists(n.Value); b {
	case Disallow, Overwrite, Retain:
		if n.Kind == yaml.ScalarNode {
			return b
		}
	}
	fix := "write DISALLOW, OVERWRITE or RETAIN, in capitals"
	if upper := strings.ToUpper(n.Value); upper != n.Value &&
		slices.Contains([]FileExists{Disallow, Overwrite, Retain}, FileExists(upper)) {
		fix = "write " + upper
	}
	p.problem(n, fix, "file_exists_behavior is %s, not one of DISALLOW, OVERWRITE and RETAIN", kind(n))
	return ""
}

// hooks reads the scripts of lifecycle events.
func (p *parser) hooks(s *Spec, n *yaml.Node) {
	const example = "write AfterInstall: and below it - location: scripts/after.sh"
	if isNull(n) {
		return
	}
	if n.Kind == yaml.SequenceNode {
		p.problem(n, example, "hooks is a list, as for Amazon ECS and AWS Lambda, not a mapping of lifecycle events")
		return
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, example, "hooks is %s, not a mapping of lifecycle events", kind(n))
		return
	}
	p.duplicates(n)
	var unknown []*yaml.Node
	for key, value := range yamlfile.Pairs(n) {
		event := Event(key.Value)
		if !p.mayHook(event) {
			unknown = append(unknown, key)
		}
		if isNull(value) {
			continue
		}
		if value.Kind != yaml.SequenceNode {
			p.problem(value, "write - location: scripts/after.sh below it", "hook %s is %s, not a list of scripts",
				event, kind(value))
			continue
		}
		for _, entry := range value.Content {
			if script, ok := p.script(event, entry); ok {
				s.Hooks[event] = append(s.Hooks[event], script)
			}
		}
	}
	p.unknownHooks(unknown)
}

func (p *parser) mayHook(e Event) bool {
	if p.options.Events != nil {
		return slices.Contains(p.options.Events, e)
	}
	return slices.Contains(Scriptable, e)
}

// unknownHooks are a problem when the caller knows all events that there can be.
func (p *parser) unknownHooks(keys []*yaml.Node) {
	if len(keys) == 0 {
		return
	}
	if p.options.Events != nil {
		names := make([]string, len(keys))
		for i, k := range keys {
			names[i] = k.Value
		}
		p.problem(keys[0], "name one of "+join(p.options.Events), "contains unknown lifecycle events: [%s]",
			strings.Join(names, ", "))
		return
	}
	for _, k := range keys {
		if slices.Contains(reserved, Event(k.Value)) {
			p.ignored(k, "name one of "+join(Scriptable), "the lifecycle event %s is reserved; its scripts do not run", k.Value)
			continue
		}
		fix := "name one of " + join(Scriptable)
		if near, ok := yamlfile.Nearest(k.Value, texts(Scriptable)); ok {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		p.ignored(k, fix, "unknown lifecycle event %q; its scripts do not run", k.Value)
	}
}

func texts(events []Event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = string(e)
	}
	return all
}

func join(events []Event) string { return strings.Join(texts(events), ", ") }

func (p *parser) script(event Event, n *yaml.Node) (Script, bool) {
	before := len(p.problems)
	s := Script{Timeout: DefaultTimeout, At: Position{n.Line, n.Column}}
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write - location: scripts/after.sh", "a script of hook %s is %s, not a mapping", event, kind(n))
		return s, false
	}
	p.duplicates(n)
	fields := p.fields(n, "a script of hook "+string(event), []string{"location", "timeout", "runas", "sudo"})
	location := fields["location"]
	switch {
	case isNull(location):
		p.problem(cmp.Or(location, n), "add location: with its path in the revision, such as scripts/after.sh",
			"a script of hook %s has no location", event)
	case location.Kind != yaml.ScalarNode || strings.TrimSpace(location.Value) == "":
		p.problem(location, "write its path in the revision, such as scripts/after.sh",
			"the location of a script of hook %s is %s", event, kind(location))
	default:
		name, ok := inside(strings.TrimSpace(location.Value))
		if !ok || name == "." {
			p.problem(location, "write its path in the revision, such as scripts/after.sh",
				"the location %q of a script of hook %s is not in the revision", location.Value, event)
		}
		s.Location = name
	}
	if t := fields["timeout"]; !isNull(t) {
		s.Timeout = p.timeout(event, t)
	}
	if u := fields["runas"]; !isNull(u) {
		if u.Kind != yaml.ScalarNode || strings.TrimSpace(u.Value) == "" || strings.HasPrefix(u.Value, "-") ||
			strings.ContainsAny(u.Value, " \t\n:/") {
			p.problem(u, "write the name of a user of the host, such as deploy",
				"runas of a script of hook %s is %s, not a user", event, kind(u))
		}
		s.RunAs = u.Value
	}
	if b := fields["sudo"]; !isNull(b) {
		if b.ShortTag() != "!!bool" || b.Decode(&s.Sudo) != nil {
			p.problem(b, "write sudo: true, or leave it out", "sudo of a script of hook %s is %s", event, kind(b))
		}
	}
	return s, len(p.problems) == before
}

// maxTimeout is longer than any script can want.
const maxTimeout = 7 * 24 * 3600

// timeout is in whole seconds. The agent reads "300s" as 300 and "1.9" as 1.
func (p *parser) timeout(event Event, n *yaml.Node) time.Duration {
	seconds, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || seconds <= 0 || seconds > maxTimeout || strings.HasPrefix(n.Value, "+") {
		fix := "write whole seconds, such as timeout: 300"
		if d, err := time.ParseDuration(n.Value); n.Kind == yaml.ScalarNode && err == nil && d >= time.Second &&
			d.Seconds() <= maxTimeout {
			fix = fmt.Sprintf("write timeout: %d", int(d.Seconds()))
		}
		p.problem(n, fix, "the timeout of a script of hook %s is %s, not a number of seconds from 1 to %d", event,
			kind(n), maxTimeout)
		return DefaultTimeout
	}
	if seconds > 3600 {
		p.warnings = append(p.warnings,
			p.at(n, "", "CodeDeploy gives a lifecycle event at most 3600 seconds; %d are given here", seconds))
	}
	return time.Duration(seconds) * time.Second
}

// inside cleans a path of the revision; it begins at the revision's top, with or
// without a slash.
func inside(name string) (string, bool) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if name == "" || strings.ContainsAny(name, "\x00\n") || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", false
	}
	return clean, true
}

// files reads what goes where.
func (p *parser) files(s *Spec, n *yaml.Node) {
	const example = "write - source: / and below it destination: /srv/app"
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		p.problem(n, example, "files is %s, not a list", kind(n))
		return
	}
	for _, entry := range n.Content {
		if entry.Kind != yaml.MappingNode {
			p.problem(entry, example, "an entry of files is %s, not a mapping with source and destination", kind(entry))
			continue
		}
		p.duplicates(entry)
		fields := p.fields(entry, "an entry of files", []string{"source", "destination"})
		f := File{At: Position{entry.Line, entry.Column}}
		if source := fields["source"]; !isText(source) || source.Value == "" {
			p.problem(cmp.Or(source, entry), `add source: with a path in the revision; "/" is all of it`,
				"an entry of files has no source")
		} else if name, ok := inside(source.Value); !ok {
			p.problem(source, `write a path in the revision, such as build/; "/" is all of it`,
				"the source %q of an entry of files is not in the revision", source.Value)
		} else {
			f.Source = name
		}
		if to := fields["destination"]; !isText(to) || to.Value == "" {
			p.problem(cmp.Or(to, entry), "add destination: with the directory to copy to, such as /srv/app",
				"an entry of files has no destination")
		} else {
			f.Destination = p.absolute(s, to, "the destination of an entry of files")
		}
		if f.Source != "" && f.Destination != "" {
			s.Files = append(s.Files, f)
		}
	}
}

// absolute is a path of the host, "" for what is none.
func (p *parser) absolute(s *Spec, n *yaml.Node, what string) string {
	if s.OS == Windows {
		return n.Value // which hosts with Linux do not deploy; it is only read
	}
	if !path.IsAbs(n.Value) || strings.ContainsAny(n.Value, "\x00\n") {
		fix := "write the whole path, such as /srv/app"
		if strings.HasPrefix(n.Value, "~") || strings.HasPrefix(n.Value, "$") {
			fix = "write the whole path; neither ~ nor variables are expanded"
		}
		p.problem(n, fix, "%s, %q, is not an absolute path", what, n.Value)
		return ""
	}
	return path.Clean(n.Value)
}
