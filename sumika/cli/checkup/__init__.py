"""What `sumika doctor` looks at: a file for each subject. Each check takes plain facts and gives a `Finding`; `gathered` reads the facts."""
