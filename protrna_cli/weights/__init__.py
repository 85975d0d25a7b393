"""The published weights: which checkpoint a name means, where it is kept, how it is fetched and verified."""
