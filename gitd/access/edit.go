package access

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// Initial is the first server.yaml: one administrator with their public keys
// (lines of .pub files). fullName and email may be empty.
func Initial(user, fullName, email string, keys []string) ([]byte, error) {
	if err := CheckUserName(user); err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("# Who may do what on this server. Change it like any other code: clone the\n" +
		"# repository headgate, commit, push. A file with a mistake is refused and the\n" +
		"# old one stays in force.\n\n" +
		"# A user is known by their SSH keys. The e-mail addresses say which commits are\n" +
		"# theirs; they prove nothing.\n" +
		"users:\n")
	fmt.Fprintf(&b, "  %s:\n", user)
	if fullName != "" {
		fmt.Fprintf(&b, "    name: %s\n", quoted(fullName))
	}
	if email != "" {
		fmt.Fprintf(&b, "    email: [%s]\n", quoted(email))
	}
	b.WriteString("    keys:\n")
	for _, key := range keys {
		fmt.Fprintf(&b, "      - %s\n", quoted(strings.TrimSpace(key)))
	}
	fmt.Fprintf(&b, "\n# Groups hold users. %s may change this file; %s is every user\n"+
		"# and needs no entry.\ngroups:\n  %s: [%s]\n\n", Administrators, Everyone, Administrators, user)
	b.WriteString("# For each repository: description, read and write (users and groups; one left out\n" +
		"# is as the other, both left out are everyone), gate (on, or off when nothing has\n" +
		"# to be built before main moves).\n" +
		"repositories: {}\n")
	data := []byte(b.String())
	if _, err := Parse(FileName, data); err != nil {
		return nil, err
	}
	return data, nil
}

// AddRepository adds a repository that everyone may read and write, at the end
// of the list. Everything else in the text stays as it is.
func AddRepository(data []byte, name, description string) ([]byte, error) {
	if err := CheckRepositoryName(name); err != nil {
		return nil, err
	}
	if what := badLine(description, 1000); what != "" {
		return nil, fmt.Errorf("the description does not fit: %s", what)
	}
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	if _, ok := old.repositories[name]; ok {
		return nil, fmt.Errorf("repository %q is already there", name)
	}
	value := "{gate: on}"
	if description != "" {
		value = "{description: " + quoted(description) + ", gate: on}"
	}
	text := lines(data)
	if !text.add(top, "repositories", name, value) {
		return nil, errNoEdit
	}
	want := old.clone()
	want.repositories[name] = Repository{
		Name:        name,
		Description: description,
		Read:        []string{Everyone},
		Write:       []string{Everyone},
		Gated:       true,
		Policies:    true,
	}
	return text.checked(want)
}

// AddConnection adds a connection, at the end of the list, and the repository that is its
// mirror if there is none of that name. Everything else in the text stays as it is.
func AddConnection(data []byte, c Connection) ([]byte, error) {
	old, _, err := parsed(data)
	if err != nil {
		return nil, err
	}
	if _, ok := old.connections[c.Name]; ok {
		return nil, fmt.Errorf("connection %q is already there", c.Name)
	}
	want := old.clone()
	mirror, there := old.repositories[c.Mirror]
	if !there {
		if err := CheckRepositoryName(c.Mirror); err != nil {
			return nil, err
		}
		mirror = Repository{Name: c.Mirror, Read: []string{Everyone}, Policies: true}
		_, top, err := parsed(data)
		if err != nil {
			return nil, err
		}
		text := lines(data)
		if !text.add(top, "repositories", c.Mirror, "{read: [everyone]}") {
			return nil, errNoEdit
		}
		data = []byte(strings.Join(text.all, "\n") + "\n")
	}
	mirror.Mirror, mirror.Write, mirror.Gated, mirror.UngatedBy = c.Name, []string{}, false, "the forge of connection "+
		c.Name
	want.repositories[c.Mirror] = mirror
	want.connections = maps.Clone(old.connections)
	want.connections[c.Name] = c

	_, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	text := lines(data)
	if !text.add(top, "connections", c.Name, c.line()) {
		return nil, errNoEdit
	}
	return text.checked(want)
}

// line is a connection as it is written in the file.
func (c Connection) line() string {
	s := fmt.Sprintf("{forge: %s, repository: %s, url: %s, mirror: %s, secrets: [%s]", c.Forge, quoted(c.Repository),
		quoted(c.URL), c.Mirror, strings.Join(c.Secrets, ", "))
	if c.Token != "" {
		s += ", token: " + c.Token
	}
	if c.App.Key != "" {
		s += fmt.Sprintf(", app: {id: %d, key: %s}", c.App.ID, c.App.Key)
	}
	if c.Requests {
		s += ", requests: true"
	}
	return s + "}"
}

// Set switches something of a repository on or off. by says who did it and
// when ("ada on 2026-11-24"), and is in the file while it is off; it
// is letters, digits, spaces and "._@+-", and may be empty.
func Set(data []byte, name string, what Switch, on bool, by string) ([]byte, error) {
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	repository, ok := old.repositories[name]
	if !ok || name == Own {
		return nil, fmt.Errorf("repository %q has no %s that could be set", name, what)
	}
	value := "on"
	if !on {
		value = strings.TrimSuffix("off by "+by, " by ")
	}
	if _, _, ok := switched(value); !ok {
		return nil, fmt.Errorf("who sets it: %q does not fit into the file", by)
	}
	_, list := lookup(top, "repositories")
	key, entry := lookup(list, name)
	_, present := lookup(entry, string(what))
	text, setting := lines(data), string(what)+": "+value
	switch {
	case present != nil:
		raw := present.Value
		if present.Style == yaml.DoubleQuotedStyle {
			raw = `"` + raw + `"`
		} else if present.Style == yaml.SingleQuotedStyle {
			raw = "'" + raw + "'"
		}
		if !text.replace(present, raw, value) {
			return nil, errNoEdit
		}
	case entry.Kind == yaml.ScalarNode: // "hello:", "hello: ~"
		if entry.Value != "" && !text.replace(entry, entry.Value, "") {
			return nil, errNoEdit
		}
		if list.Style&yaml.FlowStyle != 0 {
			return nil, errNoEdit
		}
		text.insert(key.Line, strings.Repeat(" ", key.Column+1)+setting)
	case entry.Style&yaml.FlowStyle != 0:
		with := "{" + setting
		if len(entry.Content) > 0 {
			with += ", "
		}
		if !text.replace(entry, "{", with) {
			return nil, errNoEdit
		}
	default:
		text.insert(key.Line, strings.Repeat(" ", entry.Content[0].Column-1)+setting)
	}
	want := old.clone()
	_, who, _ := switched(value)
	what.of(&repository, on, who)
	want.repositories[name] = repository
	return text.checked(want)
}

var errNoEdit = errors.New("the file is written in a way that only its authors can edit; clone headgate, change " +
	FileName + " and push")

func parsed(data []byte) (*Config, *yaml.Node, error) {
	config, err := Parse(FileName, data)
	if err != nil {
		return nil, nil, err
	}
	top, err := yamlfile.Parse(FileName, data)
	return config, top, err
}

func (c *Config) clone() *Config {
	d := *c
	d.repositories = map[string]Repository{}
	for name, r := range c.repositories {
		d.repositories[name] = r
	}
	return &d
}

// text is a file by lines, numbered as its nodes number them.
type text struct{ all []string }

func lines(data []byte) *text {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	return &text{strings.Split(strings.TrimRight(string(data), "\n"), "\n")}
}

// insert puts new lines behind the first n.
func (t *text) insert(n int, add ...string) {
	t.all = append(t.all[:n:n], append(add, t.all[n:]...)...)
}

// add adds an entry to a section of the file, which it makes if it is not there.
func (t *text) add(top *yaml.Node, section, name, value string) bool {
	key, list := lookup(top, section)
	switch {
	case key == nil:
		t.insert(len(t.all), "", section+":", "  "+name+": "+value)
	case list.Style&yaml.FlowStyle != 0 && len(list.Content) == 0:
		// "{}" gives way to a list; a comment behind it stays.
		if !t.replace(list, "{}", "") {
			return false
		}
		t.insert(key.Line, "  "+name+": "+value)
	case list.Style&yaml.FlowStyle != 0:
		return t.replace(list, "{", "{"+name+": "+value+", ")
	default:
		indent := 2
		if len(list.Content) > 0 {
			indent = list.Content[0].Column - 1
		}
		t.insert(t.end(top, key), strings.Repeat(" ", indent)+name+": "+value)
	}
	return true
}

// replace puts new for old where node starts, if old is there.
func (t *text) replace(node *yaml.Node, old, new string) bool {
	if node.Line < 1 || node.Line > len(t.all) {
		return false
	}
	line, at := t.all[node.Line-1], 0
	for range node.Column - 1 { // columns count characters
		_, size := utf8.DecodeRuneInString(line[at:])
		at += size
	}
	if !strings.HasPrefix(line[at:], old) {
		return false
	}
	before, after := line[:at], line[at+len(old):]
	if new == "" {
		before = strings.TrimRight(before, " ")
	}
	t.all[node.Line-1] = before + new + after
	return true
}

// end is the number of lines up to where the section of key ends: before the
// next section, its comment, and the blank lines above it.
func (t *text) end(top, key *yaml.Node) int {
	n := len(t.all)
	for next := range yamlfile.Pairs(top) {
		if next.Line > key.Line {
			n = next.Line - 1
			break
		}
	}
	for n > key.Line {
		line := strings.TrimRight(t.all[n-1], " \t\r")
		if line != "" && !strings.HasPrefix(line, "#") {
			break
		}
		n--
	}
	return n
}

// checked returns the text if it now says exactly what was wanted.
func (t *text) checked(want *Config) ([]byte, error) {
	data := []byte(strings.Join(t.all, "\n") + "\n")
	got, err := Parse(FileName, data)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errNoEdit, err)
	}
	if !reflect.DeepEqual(got, want) {
		return nil, errNoEdit
	}
	return data, nil
}

// quoted writes s as a YAML double-quoted scalar. JSON-like quoting of printable
// text is YAML.
func quoted(s string) string { return strconv.Quote(s) }
