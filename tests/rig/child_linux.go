package rig

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// ChildAttributes makes the kernel kill the child process when the tests die without
// cleaning up, as at the go command's timeout.
func ChildAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// childOf is ChildAttributes for a server that refuses to run as root. If the tests run as
// root, the child runs as the named user, and dir is given to that user.
func childOf(name, dir string) (*syscall.SysProcAttr, error) {
	attributes := ChildAttributes()
	if os.Getuid() != 0 {
		return attributes, nil
	}
	who, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(who.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(who.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("user %s has the id %s and the group %s", name, who.Uid, who.Gid)
	}
	attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attributes, os.Chown(dir, int(uid), int(gid))
}
