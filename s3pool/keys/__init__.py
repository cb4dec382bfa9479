"""Keys that end: where they are got, and how they are renewed while a run goes on."""
