"""What may be claimed about metrics: warnings shown beside the headline metrics, and tests of differences."""
