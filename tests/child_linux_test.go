package tests

import "syscall"

// childAttributes has the kernel kill the child when these tests die without their
// cleanup, as at the go command's timeout.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
