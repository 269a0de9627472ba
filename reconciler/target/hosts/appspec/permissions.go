package appspec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// permissions reads who may do what with what was installed.
func (p *parser) permissions(s *Spec, n *yaml.Node) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		p.problem(n, "write - object: /srv/app and below it mode: 0755", "permissions is %s, not a list", kind(n))
		return
	}
	if s.OS == Windows && len(n.Content) > 0 {
		p.problem(n, "remove it, or write os: linux", "permissions are for linux only")
		return
	}
	for _, entry := range n.Content {
		if got, ok := p.permission(s, entry); ok {
			s.Permissions = append(s.Permissions, got)
		}
	}
}

// Matches reports whether the permission is for what lies at a path, seen from
// Object: the pattern Everything matches at any depth, others only names directly
// below Object, as those of Except do. In a pattern only "*" is special.
func (p *Permission) Matches(relative string) bool {
	for _, e := range p.Except {
		if matchName(e, relative) {
			return false
		}
	}
	return p.Pattern == Everything || matchName(p.Pattern, relative)
}

func matchName(pattern, name string) bool {
	if strings.Contains(name, "/") {
		return false
	}
	first, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return pattern == name
	}
	if name, starred = strings.CutPrefix(name, first); !starred {
		return false
	}
	for {
		part, more, another := strings.Cut(rest, "*")
		if !another {
			return strings.HasSuffix(name, part)
		}
		at := strings.Index(name, part)
		if at < 0 {
			return false
		}
		name, rest = name[at+len(part):], more
	}
}

var permissionKeys = []string{"object", "pattern", "except", "owner", "group", "mode", "acls", "context", "type"}

func (p *parser) permission(s *Spec, n *yaml.Node) (Permission, bool) {
	before := len(p.problems)
	got := Permission{Pattern: Everything, Files: true, Dirs: true, At: Position{n.Line, n.Column}}
	if n.Kind != yaml.MappingNode {
		p.problem(n, "write - object: /srv/app and below it mode: 0755",
			"an entry of permissions is %s, not a mapping", kind(n))
		return got, false
	}
	p.duplicates(n)
	fields := p.fields(n, "an entry of permissions", permissionKeys)
	if object := fields["object"]; !isText(object) || object.Value == "" {
		p.problem(cmp.Or(object, n), "add object: with a file or directory of the host, such as /srv/app",
			"an entry of permissions has no object")
	} else {
		got.Object = p.absolute(s, object, "the object of an entry of permissions")
	}
	if pattern := fields["pattern"]; !isNull(pattern) {
		got.Patterned, got.Pattern = true, pattern.Value
		if pattern.Kind != yaml.ScalarNode || pattern.Value == "" {
			p.problem(pattern, `write "**" for all, or a pattern for names such as "*.sh"`, "the pattern is %s", kind(pattern))
		}
	}
	got.Except = p.list(fields["except"], "except", `write except: ["*.sh"]`)
	got.Patterned = got.Patterned || len(got.Except) > 0
	for i, e := range got.Except {
		if path.IsAbs(e) {
			p.ignored(fields["except"].Content[i], "write it relative to "+got.Object,
				"%q of except is an absolute path, which never matches: names are compared relative to the object", e)
		}
	}
	got.Owner = p.account(fields["owner"], "owner")
	got.Group = p.account(fields["group"], "group")
	if mode := fields["mode"]; !isNull(mode) {
		got.Mode = p.mode(mode)
	}
	if acls := fields["acls"]; !isNull(acls) {
		for i, text := range p.list(acls, "acls", `write acls: ["u:mary:rw"]`) {
			acl, why := ParseACL(text)
			if why != "" {
				p.problem(acls.Content[i], "write it as setfacl takes it, such as u:mary:rw", "the acl %q %s", text, why)
				continue
			}
			got.ACLs = append(got.ACLs, acl)
		}
	}
	if c := fields["context"]; !isNull(c) {
		got.Context = p.context(c)
	}
	if types := fields["type"]; !isNull(types) {
		const fix = "write type: [file, directory]"
		got.Files, got.Dirs = false, false
		for i, t := range p.list(types, "type", fix) {
			switch t {
			case "file":
				got.Files = true
			case "directory":
				got.Dirs = true
			default:
				p.problem(types.Content[i], fix, "type is %q, not file or directory", t)
			}
		}
	}
	return got, len(p.problems) == before
}

// list is one of texts.
func (p *parser) list(n *yaml.Node, what, fix string) []string {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		p.problem(n, fix, "%s is %s, not a list", what, kind(n))
		return nil
	}
	var all []string
	for _, entry := range n.Content {
		if !isText(entry) {
			p.problem(entry, fix, "an entry of %s is %s, not text", what, kind(entry))
			return nil
		}
		all = append(all, entry.Value)
	}
	return all
}

// account is the name, or the number, of a user or group.
func (p *parser) account(n *yaml.Node, what string) string {
	if isNull(n) {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Value == "" || strings.ContainsAny(n.Value, " \t\n:/") {
		p.problem(n, "write the name of a "+map[string]string{"owner": "user", "group": "group"}[what]+" of the host",
			"%s is %s", what, kind(n))
		return ""
	}
	return n.Value
}

// mode reads the text as it stands in the file. The agent takes what YAML makes of
// it, where an unquoted 0644 is the number 420.
func (p *parser) mode(n *yaml.Node) *Mode {
	v, err := strconv.ParseUint(n.Value, 8, 32)
	if n.Kind != yaml.ScalarNode || err != nil || len(n.Value) > 4 || strings.ContainsAny(n.Value, "_+") {
		p.problem(n, "write 1 to 4 octal digits, such as 0755", "the mode is %s", kind(n))
		return nil
	}
	mode := Mode(v)
	return &mode
}

// ACL is one entry of an access control list.
type ACL struct {
	Default bool
	Kind    string // "user", "group", "mask" or "other"
	Name    string // of the user or group; "" for the owning one
	Bits    int    // 4 read, 2 write, 1 execute
}

var aclKinds = map[string]string{
	"u": "user", "user": "user",
	"g": "group", "group": "group",
	"m": "mask", "mask": "mask",
	"o": "other", "other": "other",
}

// ParseACL reads an entry as setfacl takes it; why says what is wrong, "" when
// nothing is.
func ParseACL(text string) (acl ACL, why string) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 4 {
		return acl, "does not have 2 to 4 parts"
	}
	if parts[0] == "d" || parts[0] == "default" {
		acl.Default, parts = true, parts[1:]
	}
	switch len(parts) {
	case 2: // "mary:rw" is for a user, "m:rw" for the mask
		if kind, ok := aclKinds[parts[0]]; ok {
			parts = []string{kind, "", parts[1]}
		} else {
			parts = []string{"user", parts[0], parts[1]}
		}
	case 3:
	default:
		return acl, "does not have a kind, a name and permissions"
	}
	kind, ok := aclKinds[parts[0]]
	if !ok {
		return acl, fmt.Sprintf("is for %q, not for user, group, mask or other", parts[0])
	}
	acl.Kind, acl.Name = kind, parts[1]
	switch {
	case acl.Name != "" && (kind == "mask" || kind == "other"):
		return acl, "names somebody, which " + kind + " does not take"
	case acl.Name == "" && kind != "mask" && !acl.Default:
		return acl, "is the base entry of " + kind + "; use mode to set the base acl entry"
	}
	bits, ok := aclBits(parts[2])
	if !ok {
		return acl, fmt.Sprintf("has the permissions %q, not one digit from 0 to 7 or letters of rwx", parts[2])
	}
	acl.Bits = bits
	return acl, ""
}

func aclBits(text string) (bits int, ok bool) {
	if len(text) == 1 && text[0] >= '0' && text[0] <= '7' {
		return int(text[0] - '0'), true
	}
	for _, r := range text {
		switch r {
		case 'r':
			bits |= 4
		case 'w':
			bits |= 2
		case 'x':
			bits |= 1
		case '-':
		default:
			return 0, false
		}
	}
	return bits, text != ""
}

// Context is an SELinux context.
type Context struct {
	User  string // "": left as it is
	Type  string
	Range string // "": left as it is
}

// context takes the user as "name", which the agent reads, and as "user", which the
// manual documents and the agent ignores.
func (p *parser) context(n *yaml.Node) *Context {
	const fix = "write context: {type: httpd_sys_content_t}"
	if n.Kind != yaml.MappingNode {
		p.problem(n, fix, "context is %s, not a mapping", kind(n))
		return nil
	}
	p.duplicates(n)
	fields := p.fields(n, "context", []string{"name", "user", "type", "range"})
	text := func(key string) string {
		v := fields[key]
		if isNull(v) {
			return ""
		}
		if v.Kind != yaml.ScalarNode || strings.ContainsAny(v.Value, ": \t\n") && key != "range" {
			p.problem(v, fix, "%s of context is %s", key, kind(v))
		}
		return v.Value
	}
	c := &Context{User: text("name"), Type: text("type"), Range: text("range")}
	if user := text("user"); user != "" {
		if c.User != "" && c.User != user {
			p.problem(fields["user"], "keep one of them", "context has the name %q and the user %q", c.User, user)
		}
		c.User = user
	}
	if c.Type == "" {
		p.problem(n, fix, "invalid context type: it is missing")
	}
	if c.Range != "" {
		if why := checkRange(c.Range); why != "" {
			p.problem(fields["range"], "write it as semanage does, such as s0 or s0-s3:c0.c5,c7",
				"the range %q of context %s", c.Range, why)
		}
	}
	return c
}

// checkRange checks s#[-s#][:c#[.c#](,c#[.c#])*]; "" is well-formed.
func checkRange(text string) (why string) {
	levels, categories, given := strings.Cut(text, ":")
	low, high, both := strings.Cut(levels, "-")
	from, ok := numbered(low, 's')
	if !ok {
		return "does not begin with a sensitivity"
	}
	if both {
		to, ok := numbered(high, 's')
		switch {
		case !ok:
			return "does not end with a sensitivity"
		case to < from:
			return fmt.Sprintf("goes from s%d down to s%d", from, to)
		}
	}
	if !given {
		return ""
	}
	var seen []int
	for part := range strings.SplitSeq(categories, ",") {
		low, high, both := strings.Cut(part, ".")
		if !both {
			high = low
		}
		from, ok1 := numbered(low, 'c')
		to, ok2 := numbered(high, 'c')
		switch {
		case !ok1 || !ok2:
			return fmt.Sprintf("has %q where a category such as c5 belongs", part)
		case from > 1023 || to > 1023:
			return "has a category over c1023"
		case both && to <= from:
			return fmt.Sprintf("goes from c%d down to c%d", from, to)
		}
		for c := from; c <= to; c++ {
			if slices.Contains(seen, c) {
				return fmt.Sprintf("has the category c%d twice", c)
			}
			seen = append(seen, c)
		}
	}
	return ""
}

// numbered reads a letter and a number after it.
func numbered(text string, letter byte) (int, bool) {
	if len(text) < 2 || len(text) > 6 || text[0] != letter {
		return 0, false
	}
	n, err := strconv.ParseUint(text[1:], 10, 16)
	return int(n), err == nil
}
