package rig

import "syscall"

// ChildAttributes has the kernel kill the child when these tests die without their
// cleanup, as at the go command's timeout.
func ChildAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
