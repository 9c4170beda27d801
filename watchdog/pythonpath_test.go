package watchdog

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestThePythonPathMeansTheSameInEveryDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for given, want := range map[string]string{
		"python":           dir + "/python",
		"python:/opt/lib:": dir + "/python:/opt/lib:",
		"./a:b/../c":       dir + "/a:" + dir + "/c",
		"":                 "",
	} {
		got := absolutePythonPath([]string{"HOME=home", "PYTHONPATH=" + given})
		if diff := cmp.Diff([]string{"HOME=home", "PYTHONPATH=" + want}, got); diff != "" {
			t.Errorf("%q (-want +got)\n%s", given, diff)
		}
	}
}
