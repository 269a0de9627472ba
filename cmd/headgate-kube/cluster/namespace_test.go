package cluster

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate-cd/headgate/reconciler/target"
)

// TestNamespaceThatGoes: what cannot be made while its namespace is being deleted is waited for, and shown as that.
func TestNamespaceThatGoes(t *testing.T) {
	s := fresh(t)
	// There is no controller here that would bring it to its end.
	if err := s.Client.Resource(gvrOf("v1/namespaces")).Delete(t.Context(), s.shop, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Converge(s.declare(1, fmt.Sprintf(configMap, "a", "one")))
	o := s.await("waiting for its namespace", func(o target.Observed) bool {
		return is(1, target.Converging)(o) && strings.Contains(o.Message, "its namespace is being deleted")
	})
	if o.RollBack || s.there("v1/configmaps", "a") {
		t.Errorf("%+v", o)
	}
}
