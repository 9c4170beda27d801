//go:build unix

package watchdog_test

import (
	"os/exec"
	"syscall"
)

// asUser runs a program as another user and returns what it printed.
func asUser(uid int, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
