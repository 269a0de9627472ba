package deploy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/headgate-cd/headgate/reconciler/target/hosts/appspec"
)

// account is a user or group that a permission names.
type account struct {
	what  string // "user" or "group"
	name  string
	given bool // files are given to it
}

func accountsOf(p *appspec.Permission) (all []account) {
	if p.Owner != "" {
		all = append(all, account{"user", p.Owner, true})
	}
	if p.Group != "" {
		all = append(all, account{"group", p.Group, true})
	}
	for _, a := range p.ACLs {
		if a.Name != "" {
			all = append(all, account{a.Kind, a.Name, false})
		}
	}
	return all
}

// lookup finds its number. A name that is a number stands for itself.
func (a account) lookup() (int, error) {
	id := ""
	if a.what == "group" {
		if g, err := user.LookupGroup(a.name); err == nil {
			id = g.Gid
		}
	} else if u, err := user.Lookup(a.name); err == nil {
		id = u.Uid
	}
	if n, err := strconv.ParseUint(cmp.Or(id, a.name), 10, 31); err == nil {
		return int(n), nil
	}
	return 0, fmt.Errorf("there is no %s %q on this host", a.what, a.name)
}

// ours reports whether an ordinary user may give files to the account.
func (a account) ours(id int) bool {
	if a.what == "user" {
		return id == os.Getuid()
	}
	groups, _ := os.Getgroups()
	return id == os.Getgid() || slices.Contains(groups, id)
}

// apply gives what was installed its permissions: owner first, since a change of owner
// takes setuid away, then mode, access control list and context.
func (h *Host) apply(name string, grant *appspec.Permission) error {
	if err := h.allow("permit", name); err != nil {
		return err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	uid, gid := -1, -1
	if grant.Owner != "" {
		if uid, err = (account{what: "user", name: grant.Owner}).lookup(); err != nil {
			return err
		}
	}
	if grant.Group != "" {
		if gid, err = (account{what: "group", name: grant.Group}).lookup(); err != nil {
			return err
		}
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Lchown(name, uid, gid); err != nil {
			return err
		}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil // a link has no mode, and what it leads to is not ours to change
	}
	if grant.Mode != nil {
		if err := unix.Chmod(name, uint32(*grant.Mode)); err != nil {
			return &fs.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	if len(grant.ACLs) > 0 {
		if err := setACL(name, grant.ACLs); err != nil {
			return err
		}
	}
	if grant.Context != nil && selinux() {
		return setContext(name, grant.Context)
	}
	return nil
}

// Tags of entries of a POSIX access control list, in their order.
const (
	aclUserObject  = 0x01
	aclUser        = 0x02
	aclGroupObject = 0x04
	aclGroup       = 0x08
	aclMask        = 0x10
	aclOther       = 0x20
	aclNoID        = ^uint32(0)
)

type aclEntry struct {
	tag, bits uint16
	id        uint32
}

// setACL replaces the access control lists of a file or directory. Base entries come
// from its mode; those of the default list, too, unless they are given.
func setACL(name string, acls []appspec.ACL) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	for _, list := range []struct {
		attribute string
		isDefault bool
	}{{"system.posix_acl_access", false}, {"system.posix_acl_default", true}} {
		entries, err := entriesOf(acls, list.isDefault, st.Mode)
		if err != nil {
			return fmt.Errorf("acl of %s: %w", name, err)
		}
		if entries == nil {
			continue
		}
		if err := unix.Setxattr(name, list.attribute, encodeACL(entries), 0); err != nil {
			if errors.Is(err, unix.EOPNOTSUPP) {
				err = errors.New("its file system has no access control lists")
			}
			return fmt.Errorf("acl of %s: %w", name, err)
		}
	}
	return nil
}

// entriesOf are the entries of one of the lists, nil when nothing is given for it. The
// mask is what the named and the group have together, as setfacl makes it.
func entriesOf(acls []appspec.ACL, isDefault bool, mode uint32) ([]aclEntry, error) {
	tags := map[string][2]uint16{
		"user":  {aclUserObject, aclUser},
		"group": {aclGroupObject, aclGroup},
		"mask":  {aclMask, aclMask},
		"other": {aclOther, aclOther},
	}
	var entries []aclEntry
	has := func(tag uint16) bool {
		return slices.ContainsFunc(entries, func(e aclEntry) bool { return e.tag == tag })
	}
	for _, a := range acls {
		if a.Default != isDefault {
			continue
		}
		e := aclEntry{tag: tags[a.Kind][0], bits: uint16(a.Bits), id: aclNoID}
		if a.Name != "" {
			id, err := (account{what: a.Kind, name: a.Name}).lookup()
			if err != nil {
				return nil, err
			}
			e.tag, e.id = tags[a.Kind][1], uint32(id)
		}
		entries = append(entries, e)
	}
	if entries == nil {
		return nil, nil
	}
	for tag, bits := range map[uint16]uint32{aclUserObject: mode >> 6 & 7, aclGroupObject: mode >> 3 & 7,
		aclOther: mode & 7} {
		if !has(tag) {
			entries = append(entries, aclEntry{tag, uint16(bits), aclNoID})
		}
	}
	if (has(aclUser) || has(aclGroup)) && !has(aclMask) {
		var all uint16
		for _, e := range entries {
			if e.tag == aclUser || e.tag == aclGroup || e.tag == aclGroupObject {
				all |= e.bits
			}
		}
		entries = append(entries, aclEntry{aclMask, all, aclNoID})
	}
	slices.SortFunc(entries, func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	return entries, nil
}

// encodeACL writes a list as the kernel takes it: version 2, little endian.
func encodeACL(entries []aclEntry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.bits)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out
}

// selinux reports whether this host labels its files.
func selinux() bool { return exists("/sys/fs/selinux/enforce") }

func setContext(name string, c *appspec.Context) error {
	const attribute = "security.selinux"
	value := make([]byte, 4096)
	n, err := unix.Lgetxattr(name, attribute, value)
	if err != nil {
		return &fs.PathError{Op: "read context", Path: name, Err: err}
	}
	next := contextOf(strings.TrimRight(string(value[:n]), "\x00"), c)
	if err := unix.Lsetxattr(name, attribute, append([]byte(next), 0), 0); err != nil {
		return &fs.PathError{Op: "set context " + next, Path: name, Err: err}
	}
	return nil
}

// contextOf is user:role:type:range with what is given in place of what was.
func contextOf(was string, c *appspec.Context) string {
	parts := append(strings.SplitN(was, ":", 4), "", "", "", "")[:4]
	role := cmp.Or(parts[1], "object_r")
	return strings.Join([]string{
		cmp.Or(c.User, parts[0], "system_u"), role, c.Type, cmp.Or(c.Range, parts[3], "s0"),
	}, ":")
}
