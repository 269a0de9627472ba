package access

import (
	"errors"
	"strings"
	"testing"
)

const members = `# Ours.
users:
  ada:   # the first
    keys:
      - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOPAQhztwLbud4zIup2WmvfPdRaqwWtMMGjF7uMh0Ac3 ada"
  bob:
    name: Bob B.
    email: [bob@example.org]
    keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMV+4ekU5rwz9PQZKLwZERp6pnsC4Fc5d7nyWnu2Rbsd bob"]
  # of the night
  cyr:
    keys:
      - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDiqeUrq9Nc2E1mt/zQlgPoJ7LCbUzMpCyM7T3Tm3UhS cyr"

groups:
  administrators: [ada]   # few
  release: [ada, bob, cyr]
  night:
    - bob
    - cyr

# What there is.
repositories:
  secret: {read: [ada, cyr]}
`

const newKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPOPD72S+Djxh4iBEsQAwWGzpg/H8Gn5O226v2evMVC5"

// TestMembers: what an edit changes, and that it changes nothing else. The
// difference is that of the lines.
func TestMembers(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func([]byte) ([]byte, error)
		minus  []string
		plus   []string
		reason string
	}{
		{
			name: "add a user",
			edit: func(d []byte) ([]byte, error) { return AddUser(d, "dan", []string{newKey + " dan\n"}) },
			plus: []string{"  dan:", "    keys:", `      - "` + newKey + ` dan"`},
		},
		{
			name: "another key, below the first",
			edit: func(d []byte) ([]byte, error) { return AddUser(d, "ada", []string{newKey}) },
			plus: []string{`      - "` + newKey + `"`},
		},
		{
			name:   "a key that is somebody's",
			edit:   func(d []byte) ([]byte, error) { return AddUser(d, "dan", []string{strings.Split(members, `"`)[1]}) },
			reason: "is already a key of ada",
		},
		{name: "no key", edit: func(d []byte) ([]byte, error) { return AddUser(d, "dan", nil) }, reason: "none was given"},
		{name: "no key either", edit: func(d []byte) ([]byte, error) { return AddUser(d, "dan", []string{"hello"}) },
			reason: "a key of dan "},
		{name: "a group", edit: func(d []byte) ([]byte, error) { return AddUser(d, "night", []string{newKey}) },
			reason: `"night" is a group`},
		{
			name: "remove a user, of all groups",
			edit: func(d []byte) ([]byte, error) { return RemoveUser(d, "bob") },
			minus: []string{"  bob:", "    name: Bob B.", "    email: [bob@example.org]", "    keys: [",
				"  release: [ada, bob, cyr]", "    - bob"},
			plus: []string{"  release: [ada, cyr]"},
		},
		{name: "one whom rights name", edit: func(d []byte) ([]byte, error) { return RemoveUser(d, "cyr") },
			reason: "the rights of the repository secret name cyr"},
		{name: "nobody", edit: func(d []byte) ([]byte, error) { return RemoveUser(d, "eve") },
			reason: `there is no user "eve"`},
		{
			name:  "add to a list on one line",
			edit:  func(d []byte) ([]byte, error) { return AddMember(d, "administrators", "cyr") },
			minus: []string{"  administrators: [ada]   # few"}, plus: []string{"  administrators: [ada, cyr]   # few"},
		},
		{
			name: "add to a list of lines",
			edit: func(d []byte) ([]byte, error) { return AddMember(d, "night", "ada") },
			plus: []string{"    - ada"},
		},
		{
			name: "make a group",
			edit: func(d []byte) ([]byte, error) { return AddMember(d, "day", "ada") },
			plus: []string{"  day: [ada]"},
		},
		{name: "one who is there", edit: func(d []byte) ([]byte, error) { return AddMember(d, "night", "bob") }},
		{name: "everyone", edit: func(d []byte) ([]byte, error) { return AddMember(d, Everyone, "bob") },
			reason: "every user"},
		{
			name:  "take out the last of a line",
			edit:  func(d []byte) ([]byte, error) { return RemoveMember(d, "release", "cyr") },
			minus: []string{"  release: [ada, bob, cyr]"}, plus: []string{"  release: [ada, bob]"},
		},
		{
			name:  "take out the first of a line",
			edit:  func(d []byte) ([]byte, error) { return RemoveMember(d, "release", "ada") },
			minus: []string{"  release: [ada, bob, cyr]"}, plus: []string{"  release: [bob, cyr]"},
		},
		{
			name:  "take out of a list of lines",
			edit:  func(d []byte) ([]byte, error) { return RemoveMember(d, "night", "bob") },
			minus: []string{"    - bob"},
		},
		{name: "the last administrator", edit: func(d []byte) ([]byte,
			error) {
			return RemoveMember(d, "administrators", "ada")
		}, reason: "the last administrator"},
		{
			name: "add an agent",
			edit: func(d []byte) ([]byte, error) {
				return AddAgent(d, Agent{Name: "web-1", Tags: map[string]string{"role": "web", "zone": "eu-1/a"},
					Repositories: []string{"secret"}}, newKey+"\n")
			},
			plus: []string{"", "agents:", "  web-1:", `    key: "` + newKey + `"`, `    tags: {"role": "web", "zone": "eu-1/a"}`,
				"    repositories: [secret]"},
		},
		{
			name: "an agent with a key that is somebody's",
			edit: func(d []byte) ([]byte, error) {
				return AddAgent(d, Agent{Name: "web-1"}, strings.Split(members, `"`)[1])
			},
			reason: "is already a key of ada",
		},
		{
			name: "an agent with tags that are none",
			edit: func(d []byte) ([]byte, error) {
				return AddAgent(d, Agent{Name: "web-1", Tags: map[string]string{"role": "a b"}}, newKey)
			},
			reason: `"role=a b" is not a tag`,
		},
		{name: "no agent's name", edit: func(d []byte) ([]byte, error) { return AddAgent(d, Agent{Name: "-rf"}, newKey) },
			reason: "is not a name for an agent"},
		{name: "no such agent", edit: func(d []byte) ([]byte, error) { return RemoveAgent(d, "web-1") },
			reason: `there is no agent "web-1"`},
		{
			name: "add and remove agents",
			edit: func(d []byte) ([]byte, error) {
				d, err := AddAgent(d, Agent{Name: "web-1"}, newKey)
				if err != nil {
					return nil, err
				}
				if _, err := AddUser(d, "dan", []string{newKey}); err == nil {
					return nil, errors.New("a user got the key of an agent")
				}
				if _, err := AddAgent(d, Agent{Name: "web-2"}, newKey); err == nil {
					return nil, errors.New("two agents have one key")
				}
				return RemoveAgent(d, "web-1")
			},
			plus: []string{"", "agents:"},
		},
		{name: "not a member", edit: func(d []byte) ([]byte, error) { return RemoveMember(d, "night", "ada") },
			reason: "ada is not in the group night"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.edit([]byte(members))
			if c.reason != "" {
				if err == nil || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("%v, want %q", err, c.reason)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			minus, plus := difference(members, string(got))
			if !begin(minus, c.minus) || !begin(plus, c.plus) {
				t.Errorf("removed %q, want %q; added %q, want %q in\n%s", minus, c.minus, plus, c.plus, got)
			}
		})
	}
}

// difference is the lines that the one has more often than the other.
func difference(old, new string) (minus, plus []string) {
	count := map[string]int{}
	for line := range strings.Lines(new) {
		count[line]++
	}
	for line := range strings.Lines(old) {
		if count[line]--; count[line] < 0 {
			minus = append(minus, strings.TrimSuffix(line, "\n"))
		}
	}
	count = map[string]int{}
	for line := range strings.Lines(old) {
		count[line]++
	}
	for line := range strings.Lines(new) {
		if count[line]--; count[line] < 0 {
			plus = append(plus, strings.TrimSuffix(line, "\n"))
		}
	}
	return minus, plus
}

func begin(got, want []string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			return false
		}
	}
	return true
}
