//go:build !linux

package rig

import (
	"errors"
	"syscall"
)

func ChildAttributes() *syscall.SysProcAttr { return nil }

func childOf(string, string) (*syscall.SysProcAttr, error) {
	return nil, errors.New("servers of their own are started by the tests on Linux only")
}
