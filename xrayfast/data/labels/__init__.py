"""From label cells to targets: names, uncertainty policies, label maps, implications."""
