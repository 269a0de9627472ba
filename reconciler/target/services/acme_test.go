package services

import (
	"crypto/tls"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate-cd/headgate/gitd/acmetest"
	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestACME: a service's certificate is asked for once an administrator has agreed to an
// authority; that there is none is said of the service, and keeps no other from serving.
// It is there after a restart without being asked for again, and nobody else's eyes see it.
func TestACME(t *testing.T) {
	t.Parallel()
	authority := acmetest.New(t)
	h := open(t, false)
	compose := func(tls string) string {
		web := strings.Replace(web, "health: /healthz", "tls: "+tls+", routes: [shop.example.org], health: /healthz", 1)
		return web + strings.Replace(strings.TrimPrefix(strings.Replace(web, "  web:", "  api:", 1), "services:\n"),
			"tls: "+tls+", routes: [shop.example.org], ", "", 1)
	}
	unit := func(h *harness, name string) (u target.Unit) {
		for _, one := range h.await(target.Healthy).Units {
			if one.Name == name {
				u = one
			}
		}
		return u
	}
	at := func(u target.Unit) string {
		address, err := url.Parse(u.URL)
		if err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort("127.0.0.1", address.Port())
	}
	ask := func(address, host string) (string, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{ServerName: host, RootCAs: authority.Roots()}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			return "", err
		}
		return resp.Status, resp.Body.Close()
	}
	said := func(h *harness, want string) target.Unit {
		t.Helper()
		var u target.Unit
		eventually(t, "web says "+want, func() (string, bool) {
			u = unit(h, "web")
			return u.Message, want == "" && u.Message == "" || want != "" && strings.Contains(u.Message, want)
		})
		return u
	}

	h.converge(1, compose("false"))
	address := at(unit(h, "web"))
	authority.Lead("shop.example.org", address)
	h.converge(1, compose("acme"))
	u := said(h, "no certificate authority is agreed to")
	if u.Reason != target.ReasonCertificateMissing || !strings.HasPrefix(u.URL, "https://shop.example.org:") {
		t.Errorf("%+v", u)
	}
	if api := unit(h, "api"); api.Message != "" {
		t.Errorf("%+v", api)
	} else if status, _, err := get(api.URL); status != http.StatusOK || err != nil {
		t.Errorf("the other service: %d, %v", status, err)
	}
	if _, err := ask(address, "shop.example.org"); err == nil {
		t.Error("it is served without a certificate")
	}
	if n := authority.Asked(); n != 0 {
		t.Errorf("an authority that nobody agreed to was asked %d times", n)
	}

	h.SetAuthority(authority.Directory)
	if u := said(h, ""); u.Reason != "" {
		t.Errorf("%+v", u)
	}
	serves := func(address string) {
		t.Helper()
		if status, err := ask(address, "shop.example.org"); err != nil || status != "200 OK" {
			t.Errorf("%q, %v", status, err)
		}
		if _, err := ask(address, "other.example.org"); err == nil {
			t.Error("a name that nobody declares is served")
		}
		if n := authority.Asked(); n != 1 {
			t.Errorf("the authority was asked for %d certificates", n)
		}
	}
	serves(address)

	h.leave()
	authority.Refuse(true)
	next := &harness{t: t, env: h.env, seq: h.seq}
	next.Target = New(h.Dir, h.LogDir, unpackSelf)
	next.SetAuthority(authority.Directory)
	next.run(nil)
	serves(at(said(next, "")))

	secret := 0
	for _, of := range []string{"acme", filepath.Join("apps", "hello", h.env, "hello", "acme")} {
		err := filepath.WalkDir(filepath.Join(h.Dir, of), func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; err == nil && info.Mode().Perm() != want {
				t.Errorf("%s is %v", name, info.Mode())
			}
			if !e.IsDir() {
				secret++
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if secret != 2 { // the account's key, and the certificate with its own
		t.Errorf("there are %d files", secret)
	}

	next.converge(1, compose("false"))
	eventually(t, "it is served in clear again", func() (string, bool) {
		u := unit(next, "web")
		return u.URL, strings.HasPrefix(u.URL, "http://")
	})
	next.end()
}

// TestACMERefused: what no authority could certify does not land.
func TestACMERefused(t *testing.T) {
	t.Parallel()
	at := func(ports, extension string) string {
		return "services:\n  web:\n    command: x\n    ports: [" + ports + "]\n    x-headgate: {" + extension + "}\n"
	}
	shop := at(`"443:80"`, "tls: acme, routes: [shop.example.org/a, shop.example.org/b]")
	api := strings.Replace(strings.TrimPrefix(at(`"443:80"`, "routes: [/c]"), "services:\n"), "web", "api", 1)
	for in, want := range map[string]string{
		shop: "",
		at(`"443:80", "80:80"`, "tls: acme, routes: [shop.example.org]"): "",
		at(`"443:80"`, "tls: acme"):                                      "deploy/compose.yaml:5: services.web.x-headgate.tls is acme",
		at(`"443:80"`, "tls: acme, routes: [/shop]"):                     `tls is acme, and route "/shop" has no host`,
		at(`"443:80"`, `tls: acme, routes: ["*.example.org"]`):           "the name server of *.example.org",
		at(`"443:80"`, "tls: acme, routes: [192.0.2.1]"):                 "192.0.2.1 is not a host name",
		at(`"443:80"`, "tls: acme, routes: [shop]"):                      "shop is not a host name",
		at(`"80:80"`, "tls: acme, routes: [shop.example.org]"):           "nothing but the way to HTTPS",
		at(`"443:80"`, "tls: acne, routes: [shop.example.org]"):          "services.web.x-headgate.tls is",
		shop + api: `services "web" and "api" share port 443, and one of them has tls: acme`,
	} {
		problems, _ := Check("deploy", target.Files{composeFile: []byte(in)})
		text := ""
		if len(problems) > 0 {
			text = problems.Error()
		}
		if (want == "") != (len(problems) == 0) || len(problems) > 1 || !strings.Contains(text, want) {
			t.Errorf("%s: %q, want %q", in, text, want)
		}
	}
}
