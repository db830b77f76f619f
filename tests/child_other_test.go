//go:build !linux

package tests

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
