package rig

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// ChildAttributes has the kernel kill the child when these tests die without their
// cleanup, as at the go command's timeout.
func ChildAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// childOf is ChildAttributes for a server that does not run as root: as that user, if
// these tests run as root, and owner of dir.
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
