package access

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/headgate-cd/headgate/gitd/yamlfile"
)

// AddUser adds a user with public keys (lines of .pub files), or gives one that is
// there more keys. Everything else in the text stays as it is; so for all of this file.
func AddUser(data []byte, name string, keys []string) ([]byte, error) {
	if err := CheckUserName(name); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("a user is known by SSH keys, and none was given")
	}
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	if _, ok := old.groups[name]; ok || name == Everyone {
		return nil, fmt.Errorf("%q is a group", name)
	}
	want := old.clone()
	want.users, want.keys = maps.Clone(old.users), maps.Clone(old.keys)
	u, there := old.users[name]
	u.Keys = slices.Clone(u.Keys)
	if !there {
		u.Name, u.FullName = name, name
	}
	var written []string
	for _, line := range keys {
		key, err := ParseKey(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("a key of %s %w", name, err)
		}
		if by, taken := want.keys[key.Fingerprint]; taken {
			return nil, fmt.Errorf("the key %s is already a key of %s", key.Fingerprint, by)
		}
		want.keys[key.Fingerprint] = name
		u.Keys = append(u.Keys, key)
		written = append(written, quoted(strings.TrimSpace(line)))
	}
	want.users[name] = u

	text := lines(data)
	if there {
		_, users := lookup(top, "users")
		_, entry := lookup(users, name)
		if _, list := lookup(entry, "keys"); list == nil || list.Kind != yaml.SequenceNode || !text.append(list, written...) {
			return nil, errNoEdit
		}
		return text.checked(want)
	}
	entry := []string{"keys:"}
	for _, key := range written {
		entry = append(entry, "  - "+key)
	}
	if !text.entry(top, "users", name, entry...) {
		return nil, errNoEdit
	}
	return text.checked(want)
}

// RemoveUser removes a user, from all groups too. One that a repository's rights
// name stays until somebody has said who has them instead.
func RemoveUser(data []byte, name string) ([]byte, error) {
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	u, ok := old.users[name]
	if !ok {
		return nil, fmt.Errorf("there is no user %q", name)
	}
	for _, r := range old.Repositories() {
		if slices.Contains(r.Read, name) || slices.Contains(r.Write, name) {
			return nil, fmt.Errorf("the rights of the repository %s name %s: change them first, in %s", r.Name, name, FileName)
		}
	}
	want := old.clone()
	want.users, want.keys, want.emails, want.groups = maps.Clone(old.users), maps.Clone(old.keys), maps.Clone(
		old.emails), maps.Clone(old.groups)
	delete(want.users, name)
	for _, key := range u.Keys {
		delete(want.keys, key.Fingerprint)
	}
	for _, email := range u.Email {
		delete(want.emails, strings.ToLower(email))
	}

	for _, group := range old.Groups(name) {
		if group == Administrators && len(old.groups[group]) == 1 {
			return nil, fmt.Errorf("%s is the last administrator", name)
		}
		if data, err = removeMember(data, old, group, name); err != nil {
			return nil, err
		}
		if old, top, err = parsed(data); err != nil {
			return nil, err
		}
		want.groups[group] = old.groups[group]
	}
	text := lines(data)
	key, users := lookup(top, "users")
	if !text.removeEntry(top, key, users, name) {
		return nil, errNoEdit
	}
	return text.checked(want)
}

// AddMember adds a user to a group, which is made when it is not there.
func AddMember(data []byte, group, user string) ([]byte, error) {
	if err := CheckUserName(group); err != nil {
		return nil, err
	}
	old, top, err := parsed(data)
	if err != nil {
		return nil, err
	}
	_, isUser := old.users[group]
	switch {
	case group == Everyone:
		return nil, fmt.Errorf("%s is every user, without being named", Everyone)
	case isUser:
		return nil, fmt.Errorf("%q is a user", group)
	case slices.Contains(old.groups[group], user):
		return data, nil
	}
	if _, ok := old.users[user]; !ok {
		return nil, fmt.Errorf("there is no user %q", user)
	}
	want := old.clone()
	want.groups = maps.Clone(old.groups)
	want.groups[group] = append(slices.Clone(old.groups[group]), user)

	text := lines(data)
	_, groups := lookup(top, "groups")
	key, list := lookup(groups, group)
	switch {
	case key == nil:
		if !text.entry(top, "groups", group, "["+user+"]") {
			return nil, errNoEdit
		}
	case list.Kind != yaml.SequenceNode || !text.append(list, user):
		return nil, errNoEdit
	}
	return text.checked(want)
}

// RemoveMember takes a user out of a group.
func RemoveMember(data []byte, group, user string) ([]byte, error) {
	old, err := Parse(FileName, data)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(old.groups[group], user) {
		return nil, fmt.Errorf("%s is not in the group %s", user, group)
	}
	if group == Administrators && len(old.groups[group]) == 1 {
		return nil, fmt.Errorf("%s is the last administrator", user)
	}
	return removeMember(data, old, group, user)
}

func removeMember(data []byte, old *Config, group, user string) ([]byte, error) {
	top, err := yamlfile.Parse(FileName, data)
	if err != nil {
		return nil, err
	}
	want := old.clone()
	want.groups = maps.Clone(old.groups)
	want.groups[group] = slices.DeleteFunc(slices.Clone(old.groups[group]), func(name string) bool { return name == user })
	text := lines(data)
	_, groups := lookup(top, "groups")
	if _, list := lookup(groups, group); list == nil || !text.removeItem(list, user) {
		return nil, errNoEdit
	}
	return text.checked(want)
}

// entry adds an entry at the end of a section of the file: lines below its name,
// or, when there is one, that behind it.
func (t *text) entry(top *yaml.Node, section, name string, value ...string) bool {
	key, list := lookup(top, section)
	indent, at := 2, len(t.all)
	switch {
	case key == nil:
		t.insert(at, "", section+":")
		at += 2
	case list.Style&yaml.FlowStyle != 0 && len(list.Content) > 0:
		return false
	case list.Style&yaml.FlowStyle != 0:
		if !t.replace(list, "{}", "") {
			return false
		}
		at = key.Line
	default:
		if len(list.Content) > 0 {
			indent = list.Content[0].Column - 1
		}
		at = t.end(top, key)
	}
	space := strings.Repeat(" ", indent)
	if len(value) == 1 {
		t.insert(at, space+name+": "+value[0])
		return true
	}
	added := []string{space + name + ":"}
	for _, line := range value {
		added = append(added, space+"  "+line)
	}
	t.insert(at, added...)
	return true
}

// append adds items at the end of a list.
func (t *text) append(list *yaml.Node, items ...string) bool {
	n := len(list.Content)
	if list.Style&yaml.FlowStyle == 0 {
		if n == 0 {
			return false
		}
		last := list.Content[n-1]
		line := t.all[last.Line-1]
		dash := strings.LastIndex(line[:min(last.Column-1, len(line))], "-")
		if dash < 0 {
			return false
		}
		var added []string
		for _, item := range items {
			added = append(added, line[:dash]+"- "+item)
		}
		t.insert(last.Line, added...)
		return true
	}
	if n == 0 {
		return t.replace(list, "[]", "["+strings.Join(items, ", ")+"]")
	}
	last := list.Content[n-1]
	return t.replace(last, last.Value, last.Value+", "+strings.Join(items, ", ")) // one in quotes does not match, and is left to a person
}

// removeItem removes the item value of a list.
func (t *text) removeItem(list *yaml.Node, value string) bool {
	i := slices.IndexFunc(list.Content, func(n *yaml.Node) bool { return n.Value == value })
	if i < 0 {
		return false
	}
	item := list.Content[i]
	if list.Style&yaml.FlowStyle == 0 {
		if len(list.Content) == 1 {
			return t.replace(item, value, "") && t.replaceLine(item.Line, "-", "[]")
		}
		t.all = slices.Delete(t.all, item.Line-1, item.Line)
		return true
	}
	// The comma behind it goes too, or that before it.
	switch {
	case i+1 < len(list.Content):
		next := list.Content[i+1]
		if next.Line != item.Line {
			return false
		}
		return t.replace(item, t.between(item, next)+next.Value, next.Value)
	case i > 0:
		before := list.Content[i-1]
		return before.Line == item.Line && t.replace(before, t.between(before, item)+value, before.Value)
	}
	return t.replace(item, value, "")
}

// between is the text from one node up to another on the same line.
func (t *text) between(from, to *yaml.Node) string {
	runes := []rune(t.all[from.Line-1])
	if from.Column < 1 || to.Column-1 > len(runes) || from.Column > to.Column {
		return ""
	}
	return string(runes[from.Column-1 : to.Column-1])
}

// replaceLine puts new for the only thing that stands on a line, if that is old.
func (t *text) replaceLine(n int, old, new string) bool {
	line := t.all[n-1]
	if strings.TrimSpace(line) != old {
		return false
	}
	t.all[n-1] = strings.Replace(line, old, new, 1)
	return true
}

// removeEntry removes the entry name of a section, which must be on lines of its own.
func (t *text) removeEntry(top, section, entries *yaml.Node, name string) bool {
	if entries.Style&yaml.FlowStyle != 0 {
		return false
	}
	key, _ := lookup(entries, name)
	if key == nil {
		return false
	}
	end := t.end(top, section)
	for next := range yamlfile.Pairs(entries) {
		if next.Line <= key.Line || next.Line-1 > end {
			continue
		}
		// The comment above the next one is the next one's.
		for end = next.Line - 1; end > key.Line && strings.HasPrefix(strings.TrimSpace(t.all[end-1]), "#"); end-- {
		}
		break
	}
	t.all = slices.Delete(t.all, key.Line-1, end)
	return true
}
