package kube_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/openfaas/faas-provider/types"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider/kube"
	"github.com/graphene-faas/graphene/provider/runtimetest"
)

// TestContractOnACluster runs the contract of all runtimes on a whole cluster
// with kubelets, which it makes its own: the namespaces openfaas-fn and other.
func TestContractOnACluster(t *testing.T) {
	kubeconfig, registry := os.Getenv("GRAPHENE_TEST_KUBECONFIG"), os.Getenv("GRAPHENE_TEST_REGISTRY")
	if kubeconfig == "" || registry == "" {
		t.Skip("SKIPPED: the variables GRAPHENE_TEST_KUBECONFIG and GRAPHENE_TEST_REGISTRY name no cluster")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	image := pushSayer(t, registry)
	kube.InstallCRDsForTest(t, config)
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		return subject(t, config, image)
	})
}

func subject(t *testing.T, config *rest.Config, image string) runtimetest.Subject {
	t.Helper()
	empties(t, config)
	r := running(t, kube.Options{Client: config, DefaultNamespace: function.DefaultNamespace, AllNamespaces: true})
	return runtimetest.Subject{
		Runtime: r, Secrets: r, Logs: r, Namespaces: r,
		Image:   image,
		Refused: "Not/An Image",
		Failing: func(d *types.FunctionDeployment) { d.EnvVars = map[string]string{"fail": "1"} },
	}
}

// running returns a runtime that runs until the test ends.
func running(t *testing.T, o kube.Options) *kube.Runtime {
	t.Helper()
	o.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// empties leaves nothing in the namespaces that tests use.
func empties(t *testing.T, config *rest.Config) {
	t.Helper()
	ctx := t.Context()
	k := kube.ClientsForTest(t, config)
	if _, err := k.CoreV1().Namespaces().Get(ctx, function.DefaultNamespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		kube.CreateNamespaceForTest(t, config, function.DefaultNamespace)
	}
	kube.DeleteAllForTest(t, config, function.DefaultNamespace)
	err := k.CoreV1().Namespaces().Delete(ctx, "other", metav1.DeleteOptions{})
	for err == nil {
		_, err = k.CoreV1().Namespaces().Get(ctx, "other", metav1.GetOptions{})
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("namespace other does not go away")
		}
	}
	if !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// pushSayer builds testdata/sayer, pushes it as an image, and returns its name
// inside the cluster, where the registry stands in for every other.
func pushSayer(t *testing.T, registry string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "sayer")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./testdata/sayer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "sayer", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Entrypoint: []string{"/sayer"}}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	to, err := name.ParseReference(registry+"/test/sayer:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, img, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	return "registry.test/test/sayer:1"
}
