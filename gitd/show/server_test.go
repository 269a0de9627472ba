package show

import "testing"

// TestCommand: what people are told to paste reaches this server, with the key that the
// demo made for them where it did.
func TestCommand(t *testing.T) {
	for want, s := range map[string]Server{
		"ssh git.example.org approve hello production":                    {SSH: "git.example.org:22"},
		"ssh -p 2222 127.0.0.1 approve hello production":                  {SSH: "127.0.0.1:2222"},
		"ssh -i data/keys/you -p 2222 127.0.0.1 approve hello production": {SSH: "127.0.0.1:2222", Key: "data/keys/you"},
		"ssh -i data/keys/you git.example.org approve hello production":   {SSH: "git.example.org:22", Key: "data/keys/you"},
	} {
		if got := s.Command("approve hello production"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := s.Commands("to say yes: ssh host approve hello production"); got != "to say yes: "+want {
			t.Errorf("recorded: %q, want %q", got, want)
		}
	}
}
