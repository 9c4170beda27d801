package watchdog_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// libraries are what models are made with, in versions that are tested.
const libraries = "lightgbm==4.7.0\nonnx==1.23.2\nonnxruntime==1.32.0\nscikit-learn==1.9.1\nxgboost-cpu==3.2.0\n"

// modelHandlers load a model, use it at once, and use it in every call.
var modelHandlers = map[string]string{
	"HistGradientBoosting": `
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
def load(context):
    x = np.random.rand(500, 4)
    return HistGradientBoostingRegressor(max_iter=5).fit(x, x[:, 0]).predict
`,
	"LightGBM": `
import numpy as np, lightgbm
def load(context):
    x = np.random.rand(500, 4)
    return lightgbm.train({"verbose": -1}, lightgbm.Dataset(x, x[:, 0]), 5).predict
`,
	"XGBoost": `
import numpy as np, xgboost
def load(context):
    x = np.random.rand(500, 4)
    booster = xgboost.train({}, xgboost.DMatrix(x, x[:, 0]), 5)
    return lambda rows: booster.predict(xgboost.DMatrix(rows))
`,
	"onnxruntime": `
import numpy as np, onnxruntime
from onnx import TensorProto, helper
def load(context):
    node = helper.make_node("Add", ["x", "x"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 4]) for n in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x": rows.astype(np.float32)})[0]
`,
}

const predict = `
def warmup(model): model(np.random.rand(3000, 4))
def handle(model, event, context): return str(len(model(np.random.rand(3000, 4))))
`

// With one thread, workers share one load and answer; with two, and where the
// function insists on threads of its own, each loads for itself and answers.
func TestModelsOfKnownLibrariesSurvive(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out the models of real libraries, whose packages are hundreds of megabytes")
	}
	interpreter := librariesVenv(t)
	for name, handler := range modelHandlers {
		for _, threads := range []int{1, 2} {
			t.Run(strings.Join([]string{name, map[int]string{1: "shared", 2: "threads"}[threads]}, "/"), func(t *testing.T) {
				t.Parallel()
				o := pool(t, handler+predict)
				o.Process[0] = interpreter
				o.Workers.Threads = threads
				o.Workers.Min = 2
				o.ExecTimeout = time.Minute
				r := start(t, o).up()
				answers := make(chan reply, 6)
				for range cap(answers) {
					go func() { got, _ := r.try("GET", "/", ""); answers <- got }()
				}
				for range cap(answers) {
					if got := <-answers; got.status != http.StatusOK || got.body != "3000" {
						t.Errorf("got %d %q", got.status, got.body)
					}
				}
				_, body := r.tryReady()
				want := map[int]string{1: "ready\n", 2: "ready: each worker loads the function for itself: threads is 2\n"}[threads]
				if body != want {
					t.Errorf("ready says %q, want %q", body, want)
				}
			})
		}
	}
	t.Run("insists on threads", func(t *testing.T) {
		t.Parallel()
		o := pool(t, modelHandlers["HistGradientBoosting"]+predict, "OMP_NUM_THREADS=2")
		o.Process[0] = interpreter
		r := start(t, o).up()
		if got := r.do("GET", "/", ""); got.body != "3000" {
			t.Errorf("got %d %q", got.status, got.body)
		}
		if _, body := r.tryReady(); !strings.HasPrefix(body, "ready: each worker loads the function for itself: ") {
			t.Errorf("ready says %q", body)
		}
	})
}

// librariesVenv returns the interpreter of a virtual environment with the
// libraries, which is made once in .cache of the repository.
func librariesVenv(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../.cache/venv-libraries")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Several test processes may come here at once.
	lock, err := os.Create(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	interpreter := filepath.Join(dir, "bin", "python3")
	installed := filepath.Join(dir, "requirements.txt") // written last
	if have, err := os.ReadFile(installed); err == nil && string(have) == libraries {
		return interpreter
	}
	t.Logf("installing the libraries into %s", dir)
	must := func(name string, args ...string) {
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("NOT TESTED: no virtual environment with the libraries can be made: %s %v: %v\n%s", name, args, err, out)
		}
	}
	base, err := python()
	if err != nil {
		t.Fatalf("these tests need python3: %v", err)
	}
	must(base, "-m", "venv", "--clear", dir)
	wanted := filepath.Join(dir, "wanted.txt")
	if err := os.WriteFile(wanted, []byte(libraries), 0o600); err != nil {
		t.Fatal(err)
	}
	must(interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted)
	if err := os.Rename(wanted, installed); err != nil {
		t.Fatal(err)
	}
	return interpreter
}
