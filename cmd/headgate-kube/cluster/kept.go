package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// Kept is the agent's own directory, which a Secret keeps: a Pod has nothing else that stays.
type Kept struct {
	Client          dynamic.Interface
	Namespace, Name string // of the Secret
	Dir             string // a directory of the Pod's

	mu    sync.Mutex
	saved map[string]string // by the Secret, as it has it
}

// KeyName is the file of the agent's key.
const KeyName = "key"

const tokenKey = "token"

// keptNames are the files of the directory: who the agent is, and its key.
var keptNames = []string{KeyName, "server.json"}

var secrets = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// Load fills the directory, and returns the one-time token that the Secret may have.
func (k *Kept) Load(ctx context.Context) (token string, err error) {
	u, err := k.Client.Resource(secrets).Namespace(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("there is no Secret %s/%s\nhint: doc/kubernetes.md says how it is made", k.Namespace, k.Name)
	}
	if err != nil {
		return "", fmt.Errorf("read who this agent is: %w", err)
	}
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	for _, name := range keptNames {
		if data[name] == "" {
			continue
		}
		text, err := base64.StdEncoding.DecodeString(data[name])
		if err != nil {
			return "", fmt.Errorf("read %s of the Secret %s/%s: %w", name, k.Namespace, k.Name, err)
		}
		if err := os.WriteFile(filepath.Join(k.Dir, name), text, 0o600); err != nil {
			return "", err
		}
	}
	text, err := base64.StdEncoding.DecodeString(data[tokenKey])
	if err != nil {
		return "", fmt.Errorf("read %s of the Secret %s/%s: %w", tokenKey, k.Namespace, k.Name, err)
	}
	return string(text), nil
}

// Save has the Secret keep what the directory has, if that is new. Once it is known whose agent this is, the token goes:
// it is spent.
func (k *Kept) Save(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	files := map[string]string{}
	for _, name := range keptNames {
		text, err := os.ReadFile(filepath.Join(k.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		files[name] = base64.StdEncoding.EncodeToString(text)
	}
	if maps.Equal(files, k.saved) {
		return nil
	}
	client := k.Client.Resource(secrets).Namespace(k.Namespace)
	u, err := client.Get(ctx, k.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("keep who this agent is: %w", err)
	}
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	if data == nil {
		data = map[string]string{}
	}
	maps.Copy(data, files)
	if data["server.json"] != "" {
		delete(data, tokenKey)
	}
	if err := unstructured.SetNestedStringMap(u.Object, data, "data"); err != nil {
		return err
	}
	if _, err := client.Update(ctx, u, metav1.UpdateOptions{FieldManager: manager}); err != nil {
		return fmt.Errorf("keep who this agent is: %w", err)
	}
	k.saved = files
	return nil
}
