package store

import (
	"errors"
	"fmt"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// readKeyFile loads the generated key. It returns fs.ErrNotExist if the file is missing.
func readKeyFile(path string) (*Keys, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, sqldb.FileError(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if errors.Is(err, syscall.EISDIR) { // Docker makes a directory of a file to mount that is missing
		return nil, sqldb.Permanent(fmt.Errorf("%w: the key file %s is a directory", ErrKey, path))
	}
	if err != nil {
		return nil, sqldb.FileError(err)
	}
	keys, err := ParseKeys(string(text))
	if err != nil {
		return nil, sqldb.Permanent(fmt.Errorf("%w: key file %s: %w", ErrKey, path, err))
	}
	return keys, nil
}

// createKeyFile generates a key, and stores it on disk before it is used. The file is created
// completely or not at all, and never replaces an existing one.
func createKeyFile(path string) (*Keys, error) {
	text := generateKey()
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	// CreateTemp's files are readable by their owner only.
	f, err := os.CreateTemp(dir, filepath.Base(path)+"-*")
	if err != nil {
		return nil, sqldb.FileError(err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, sqldb.FileError(err)
	}
	// Unlike a rename, a link does not overwrite a file. If the file system does not support links,
	// the caller's lock on the database must suffice.
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if _, there := os.Lstat(path); errors.Is(there, fs.ErrNotExist) {
			err = os.Rename(f.Name(), path)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return readKeyFile(path)
	}
	if err != nil {
		return nil, sqldb.FileError(err)
	}
	return keys, sqldb.SyncDir(dir)
}
