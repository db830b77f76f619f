package store

import "context"

// Together returns the context for the questions of one login or refresh.
func (s *Store) Together(ctx context.Context) context.Context { return ctx }
