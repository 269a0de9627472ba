package services

import (
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate-cd/headgate/reconciler/target/services/rollout"
)

// SetAuthority says which certificate authority is asked for the certificates of
// services, by its ACME directory. Its terms are agreed to. "" asks nobody.
func (t *Target) SetAuthority(directory string) { t.authority.Use(directory) }

// secureByACME has a listener speak TLS by the certificates that an authority is asked
// for; at port 80, show the way there.
func (a *app) secureByACME(l *listening) {
	if a.certificates == nil {
		dir, _ := a.owner.appDir(a.home) // which has a name that is good
		a.certificates = a.owner.authority.Certificates(a.owner.ctx, filepath.Join(dir, "acme"), func() { a.post(func() {}) })
	}
	l.acme = true
	if l.tls = !l.plainPort(); !l.tls {
		l.Secure(nil)
		l.Instead(a.certificates)
		return
	}
	l.Secure(a.certificates.Config())
	l.Instead(nil)
}

// plainPort reports whether it is where visitors come to who say http://.
func (l *listening) plainPort() bool {
	at, _, _ := strings.Cut(l.key, "#")
	_, port, err := net.SplitHostPort(at)
	return err == nil && port == strconv.Itoa(plainPort)
}

// resecure has the listeners of services that are declared speak TLS as these say now.
func (a *app) resecure() {
	failed := map[string]error{}
	for _, l := range a.listeners {
		if l.successor == "" {
			if err := a.secure(l, l.service); err != nil {
				failed[l.service] = err
			}
		}
	}
	for service, err := range failed {
		a.observed.Saw(rollout.Listened{Service: service, Err: err.Error()}, a.owner.now())
	}
}

// certify asks for the certificates of the hosts that are served, and notes what is wrong
// with them.
func (a *app) certify() {
	if a.certificates == nil {
		return
	}
	hosts, of := map[string]bool{}, map[string][]string{}
	for _, s := range a.compose.Services {
		keys := listenKeys(s, a.owner.serviceAddress())
		if !s.Proxy.ACME || !slices.ContainsFunc(a.listeners, func(l *listening) bool {
			return l.acme && l.tls && slices.Contains(keys, l.key)
		}) {
			continue
		}
		of[s.Name] = s.hosts()
		for _, host := range of[s.Name] {
			hosts[host] = true
		}
	}
	a.certificates.Want(slices.Sorted(maps.Keys(hosts)))
	a.uncertified = map[string]string{}
	for service, all := range of {
		var troubles []string
		for _, host := range all {
			if why := a.certificates.Trouble(host); why != "" {
				troubles = append(troubles, why)
			}
		}
		if len(troubles) > 0 {
			a.uncertified[service] = strings.Join(troubles, "; ")
		}
	}
}

// hosts are those of its routes, each once, in their order.
func (s Service) hosts() (all []string) {
	for _, r := range s.Proxy.Routes {
		if !slices.Contains(all, r.Host) {
			all = append(all, r.Host)
		}
	}
	return all
}
