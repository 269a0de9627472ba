package access

import (
	"strings"
	"testing"
)

// An agent's key is nobody's: it names no user, and no user's names an agent.
func TestAgentsAreNotUsers(t *testing.T) {
	data, err := AddAgent([]byte(members), Agent{Name: "web-1", Tags: map[string]string{"role": "web"}}, newKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(FileName, data)
	if err != nil {
		t.Fatal(err)
	}
	a, ok := c.Agent("web-1")
	if !ok || a.Tags["role"] != "web" || len(c.Agents()) != 1 {
		t.Fatalf("%+v %v", a, ok)
	}
	if found, ok := c.AgentByKey(a.Key.Fingerprint); !ok || found.Name != "web-1" {
		t.Errorf("%+v %v", found, ok)
	}
	if who, ok := c.ByKey(a.Key.Fingerprint, ViaSSH); ok {
		t.Errorf("an agent's key is %+v", who)
	}
	ada, _ := c.User("ada")
	if found, ok := c.AgentByKey(ada.Keys[0].Fingerprint); ok {
		t.Errorf("ada's key is %+v", found)
	}
	if _, ok := c.AgentByKey(""); ok {
		t.Error("no key is an agent's")
	}
	if _, ok := (*Config)(nil).AgentByKey(a.Key.Fingerprint); ok {
		t.Error("the nil Config knows an agent")
	}
}

func TestWrongAgents(t *testing.T) {
	adas := strings.Split(members, `"`)[1]
	for _, c := range []struct{ text, want string }{
		{"agents: {web-1: {}}", "server.yaml:25: agent web-1 has no key"},
		{"agents: {Web: {key: \"" + newKey + "\"}}", `"Web" is not a name for an agent`},
		{"agents: {web-1: {key: \"" + adas + "\"}}", "is already the key of ada on line 5"},
		{"agents: {a: {key: \"" + newKey + "\"}, b: {key: \"" + newKey + "\"}}", "of agent b is already the key of agent a"},
		{"agents: {web-1: {key: nonsense}}", "the key of agent web-1 is not an SSH public key"},
		{"agents: {web-1: {key: \"" + newKey + "\", tags: {\"\": web}}}", `tags of agent web-1: "=web" is not a tag`},
	} {
		if _, err := Parse(FileName, []byte(members+c.text+"\n")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
}

// Whether an agent is drained changes alone, however it is written.
func TestDrainAgent(t *testing.T) {
	for _, entry := range []string{
		"agents:\n  web-1: {key: \"" + newKey + "\", tags: {role: web}} # the first\n",
		"agents:\n  web-1:\n    # bought in May\n    key: \"" + newKey + "\"\n    tags: {role: web}\n",
		"agents: {web-1: {key: \"" + newKey + "\"}}\n",
		"agents:\n  web-1:\n    key: \"" + newKey + "\"\n    drained: false # by hand\n",
	} {
		data := []byte(members + entry)
		drained, err := DrainAgent(data, "web-1", true)
		if err != nil {
			t.Fatalf("%s: %v", entry, err)
		}
		c, err := Parse(FileName, drained)
		if a, _ := c.Agent("web-1"); err != nil || !a.Drained {
			t.Fatalf("%v\n%s", err, drained)
		}
		if again, err := DrainAgent(drained, "web-1", true); err != nil || string(again) != string(drained) {
			t.Errorf("%v\n%s", err, again)
		}
		back, err := DrainAgent(drained, "web-1", false)
		if err != nil || strings.Replace(strings.Replace(string(back), "drained: false, ", "", 1), "    drained: false\n", "",
			1) != string(data) &&
			string(back) != string(data) {
			t.Errorf("%v\n%s", err, back)
		}
		if c, err = Parse(FileName, back); err != nil {
			t.Fatal(err)
		}
		if a, _ := c.Agent("web-1"); a.Drained {
			t.Errorf("it is drained still:\n%s", back)
		}
	}
	if _, err := DrainAgent([]byte(members), "web-2", true); err == nil {
		t.Error("an agent that is not there is drained")
	}
}
