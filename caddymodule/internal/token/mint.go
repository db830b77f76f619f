package token

// Mint signs a token that says c, of type typ ([TypeAccessToken] or [TypeJWT]),
// with the key of ks that signs at c.IssuedAt. It returns [ErrTooLarge] where
// the claims do not fit.
func Mint(ks *KeySet, typ string, seal Sealer, c Claims) (string, error) { return "", nil }
