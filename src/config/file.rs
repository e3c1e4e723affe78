//! What an operator may write, and every mistake in it.
