"""What may be claimed of metrics: warnings beside the headline, differences that chance would not give."""
