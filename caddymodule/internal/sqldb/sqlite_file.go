package sqldb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// createFile creates the directory and an empty file that only its owner can read. SQLite gives its
// log and its shared memory the same mode. createFile never opens an existing file: closing it
// would drop the locks that SQLite holds on it in this process.
//
// The log and the key file are checked before the database file itself. SQLite writes the first
// page into the file before it begins a log, and the key is created after the tables. So if a log
// or a key exists, the file must have had content, even if another process is just creating the
// database. Then an empty file must not be opened: SQLite would delete the log, and with it all
// data that could still be restored.
func (db *DB) createFile(path string, create bool) error {
	dir := filepath.Dir(path)
	hadContent := db.HasKeyFile() || hasContent(path+"-wal")
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return permanent{errors.New("is a directory; the address needs the path of a file")}
	case err == nil && info.Size() == 0 && hadContent:
		return db.Lost("is empty")
	case err == nil:
		return writableDir(dir)
	case !errors.Is(err, fs.ErrNotExist):
		return FileError(err)
	case hadContent:
		return db.Lost("is missing")
	case isLink(path):
		return permanent{fmt.Errorf("%w: it is a symbolic link to a file that does not exist: restore that file, "+
			"or remove the link to begin with an empty store on purpose", ErrLost)}
	case !create:
		return permanent{fmt.Errorf("%w: %w: the file does not exist", ErrSchema, ErrNone)}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return FileError(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was faster
	}
	if err != nil {
		return FileError(err)
	}
	if err := f.Close(); err != nil {
		return FileError(err)
	}
	return SyncDir(dir)
}

// writableDir checks that SQLite can write its log beside the file. SQLite's own error ("unable to
// open database file") would not name the reason.
func writableDir(dir string) error {
	f, err := os.CreateTemp(dir, ".wx-auth-*")
	if err != nil {
		return FileError(err)
	}
	f.Close()
	return FileError(os.Remove(f.Name()))
}

// flushFile waits until everything written to a file is on disk.
func flushFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncDir makes the names of new files in dir survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return FileError(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return FileError(err)
	}
	return nil
}

// FileError marks errors that only the operator can fix as permanent. Others may pass (a full disk,
// too many open files) and are [ErrUnavailable].
func FileError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EROFS),
		errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return permanent{fmt.Errorf("%w (the store needs a directory that it may write to)", err)}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// KeyFile returns the path of an SQLite store's generated encryption key. The file is beside the
// database, so that a copy of the directory has both.
func (db *DB) KeyFile() string { return db.path + ".key" }

// HasKeyFile reports whether there is a file with the name of this store's generated key.
func (db *DB) HasKeyFile() bool {
	if db.path == "" {
		return false
	}
	_, err := os.Lstat(db.KeyFile())
	return err == nil
}

// Blank reports whether an SQLite file has no tables at all, with any prefix.
func (db *DB) Blank(t *Tx) (bool, error) {
	var tables int
	err := t.Row(`SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table'`).Scan(&tables)
	return tables == 0, err
}

// Lost returns the error for an empty or missing database, when files beside it show that it had
// users. In a new database they would all get other ids and lose their accounts.
func (db *DB) Lost(how string) error {
	var beside []string
	for _, path := range []string{db.KeyFile(), db.path + "-wal"} {
		if _, err := os.Lstat(path); err == nil {
			beside = append(beside, path)
		}
	}
	left := strings.Join(beside, " and ")
	return permanent{fmt.Errorf("%w: the file %s, though %s is still there: restore both from the same backup, or correct the path; "+
		"to begin with an empty store on purpose, remove %s too", ErrLost, how, left, left)}
}

// InPlace returns an error if the open file was deleted or replaced. Everything that is written to
// it would be lost when this process ends.
func (db *DB) InPlace() error {
	if gone := db.gone(); gone != nil {
		return fmt.Errorf("%s: %w: %w", db.url, ErrUnavailable, gone)
	}
	return nil
}

// gone returns an ErrLost if the open file was deleted or replaced.
func (db *DB) gone() error {
	opened := db.file.Load()
	if opened == nil {
		return nil
	}
	now, err := os.Stat(db.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: the file was deleted while it is open", ErrLost)
	case err == nil && !os.SameFile(*opened, now):
		return fmt.Errorf("%w: the file was replaced while it is open", ErrLost)
	}
	return nil // or the path cannot be read, of which SQLite has an error of its own
}

// errLogLost reports that SQLite's log was deleted, but not its file.
var errLogLost = errors.New("its log was deleted while it is open")

// flushLog waits until SQLite's log is on disk.
func (db *DB) flushLog(path string) error {
	err := flushFile(path)
	if errors.Is(err, fs.ErrNotExist) && db.gone() == nil {
		return fmt.Errorf("%w: %w: %w", ErrLost, errLogLost, err)
	}
	return err
}

func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}
