package local

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheUserOfAnImageIsFound(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:100:101::/home/app:/bin/false\n\nbroken:x\nodd:x:one:two::\n",
		"etc/group":  "root:x:0:\nstaff:x:50:app\n",
	})
	for user, want := range map[string]identity{
		"":           {0, 0},
		"root":       {0, 0},
		"app":        {100, 101},
		"100":        {100, 101},
		"12000":      {12000, 0},
		"app:staff":  {100, 50},
		"12000:1":    {12000, 1},
		"app:":       {-1, -1},
		"nobody":     {-1, -1},
		"broken":     {-1, -1},
		"odd":        {-1, -1},
		"app:nobody": {-1, -1},
	} {
		got, err := userOf(root, user)
		if want.UID < 0 {
			if err == nil {
				t.Errorf("%q is %v, want an error", user, got)
			}
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got)\n%s", user, err, diff)
		}
	}
}
