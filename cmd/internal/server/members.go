package server

import (
	"context"
	"fmt"

	"github.com/headgate-cd/headgate/gitd/access"
	"github.com/headgate-cd/headgate/gitd/show"
)

// Users implements show.Backend.
func (s *Server) Users(_ context.Context, a access.Identity) ([]show.User, error) {
	if err := s.administrator(a, "list users"); err != nil {
		return nil, err
	}
	c := s.access.Load()
	var all []show.User
	for _, u := range c.Users() {
		one := show.User{
			Name:     u.Name,
			FullName: u.FullName,
			Email:    u.Email,
			Groups:   c.Groups(u.Name),
			Keys:     []show.Key{},
		}
		if one.FullName == one.Name {
			one.FullName = ""
		}
		for _, k := range u.Keys {
			one.Keys = append(one.Keys, show.Key{Fingerprint: k.Fingerprint, Comment: k.Comment})
		}
		all = append(all, one)
	}
	return all, nil
}

// Groups implements show.Backend.
func (s *Server) Groups(_ context.Context, a access.Identity) ([]show.Group, error) {
	if err := s.administrator(a, "list groups"); err != nil {
		return nil, err
	}
	c := s.access.Load()
	var all []show.Group
	for _, name := range c.AllGroups() {
		if name == access.Everyone {
			continue // it is in no list
		}
		all = append(all, show.Group{Name: name, Members: append([]string{}, c.Members(name)...)})
	}
	return all, nil
}

// AddUser implements show.Backend.
func (s *Server) AddUser(ctx context.Context, a access.Identity, name string, keys []string) (show.Done, error) {
	_, there := s.access.Load().User(name)
	theirs := s.about
	theirs.Key = "" // which is the administrator's
	subject, done := "Add the user "+name, show.Done{What: "added the user " + name,
		Next: "with their key they get in: " + theirs.Command("whoami")}
	if there {
		subject, done = "Add a key of "+
			name, show.Done{What: fmt.Sprintf("%s has %s more", name, show.Plural(len(keys), "key"))}
	}
	return s.member(ctx, a, "add users", subject, done,
		func(data []byte) ([]byte, error) { return access.AddUser(data, name, keys) })
}

// RemoveUser implements show.Backend.
func (s *Server) RemoveUser(ctx context.Context, a access.Identity, name string) (show.Done, error) {
	return s.member(ctx, a, "remove users", "Remove the user "+name,
		show.Done{What: "removed the user " + name + ", their keys and tokens"},
		func(data []byte) ([]byte, error) { return access.RemoveUser(data, name) })
}

// AddMember implements show.Backend.
func (s *Server) AddMember(ctx context.Context, a access.Identity, group, user string) (show.Done, error) {
	return s.member(ctx, a, "change groups", fmt.Sprintf("Add %s to the group %s", user, group),
		show.Done{What: fmt.Sprintf("%s is in the group %s", user, group)},
		func(data []byte) ([]byte, error) { return access.AddMember(data, group, user) })
}

// RemoveMember implements show.Backend.
func (s *Server) RemoveMember(ctx context.Context, a access.Identity, group, user string) (show.Done, error) {
	return s.member(ctx, a, "change groups", fmt.Sprintf("Take %s out of the group %s", user, group),
		show.Done{What: fmt.Sprintf("%s is not in the group %s any more", user, group)},
		func(data []byte) ([]byte, error) { return access.RemoveMember(data, group, user) })
}

// member lands an edit of users and groups. What the edit objects to is for the
// person who wanted it.
func (s *Server) member(ctx context.Context, a access.Identity, what, subject string, done show.Done,
	edit func([]byte) ([]byte, error)) (show.Done, error) {
	if err := s.administrator(a, what); err != nil {
		return show.Done{}, err
	}
	err := s.reconfigure(ctx, a, subject, func(_ *access.Config, data []byte) ([]byte, error) {
		edited, err := edit(data)
		if err != nil {
			return nil, &show.Error{Kind: show.Denied, What: err.Error()}
		}
		return edited, nil
	})
	if err != nil {
		return show.Done{}, err
	}
	return done, nil
}
