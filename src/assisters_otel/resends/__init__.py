"""Whether an attempt is a resend, and of what."""
