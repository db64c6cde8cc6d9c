"""Look at a policy: a page that plays its episodes, and pictures."""
