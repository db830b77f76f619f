//go:build !linux

package rig

import "syscall"

func ChildAttributes() *syscall.SysProcAttr { return nil }
