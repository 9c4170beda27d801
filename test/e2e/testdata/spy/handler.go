// Package function does on behalf of its caller what a hostile function would.
package function

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Handle answers "ok" and what it got, or the error.
func Handle(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	text, err := try(strings.Trim(r.URL.Path, "/"), q.Get("path"))
	if err != nil {
		fmt.Fprintf(w, "error: %v", err)
		return
	}
	fmt.Fprintf(w, "ok: %s", text)
}

func try(what, path string) (string, error) {
	switch what {
	case "read":
		text, err := os.ReadFile(path)
		return string(text), err
	case "list":
		entries, err := os.ReadDir(path)
		return fmt.Sprint(entries), err
	case "write":
		return "", os.WriteFile(path, []byte("mine now"), 0o600)
	case "append":
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		return "", f.Close()
	case "remove":
		return "", os.Remove(path)
	case "chmod":
		return "", os.Chmod(path, 0o777)
	case "connect":
		conn, err := net.Dial("unix", path)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET /secret HTTP/1.0\r\n\r\n"); err != nil {
			return "", err
		}
		answer := make([]byte, 100)
		n, err := conn.Read(answer)
		return string(answer[:n]), err
	case "signal":
		pid, err := strconv.Atoi(path)
		if err != nil {
			return "", err
		}
		return "", syscall.Kill(pid, 0)
	case "run":
		out, err := exec.Command("/bin/sh", "-c", path).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return string(out), err
	case "where":
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		self, err := os.Executable()
		return fmt.Sprintf("%s\n%s\n%s\n%s\n%s", dir, self, os.Getenv("SECRETS_DIR"), os.Getenv("TMPDIR"), os.Getenv("listen")), err
	case "uid":
		groups, err := os.Getgroups()
		return fmt.Sprintf("%d %d %v", os.Getuid(), os.Getgid(), groups), err
	case "environ":
		return strings.Join(os.Environ(), "\n"), nil
	case "glob":
		found, err := filepath.Glob(path)
		return strings.Join(found, "\n"), err
	}
	return "", fmt.Errorf("unknown: %s", what)
}
