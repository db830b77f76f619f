package token

// Cache remembers tokens that were found good. It is safe for concurrent use.
type Cache struct{}

// NewCache makes a cache of at most so many tokens.
func NewCache(entries int) *Cache { return &Cache{} }

// Len is the number of tokens in the cache.
func (c *Cache) Len() int { return 0 }
